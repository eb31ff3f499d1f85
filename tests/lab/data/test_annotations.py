"""Tables of events, tags and durations: read as they are, refused in one sentence otherwise."""

import os

import numpy as np
import pandas as pd
import pytest
from damage import fuzz, read_or_refuse
from hypothesis import given
from hypothesis import strategies as st

from lab.data.annotations import (
    read_durations,
    read_events,
    read_filenames,
    read_reference,
    read_strong_tsv,
    read_weak_tsv,
    to_tsv,
)
from lab.data.desed import CLASSES
from lab.errors import InputError

STRONG = "filename\tonset\toffset\tevent_label\n"
WEAK = "filename\tevent_labels\n"
DURATIONS = "filename\tduration\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.tsv"

    def write(text):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_strong_table(table):
    path = table(f"{STRONG}a.wav\t0.5\t2\tDog\nb.wav\t\t\t\na.wav\t0\t10.0\tSpeech\n")
    result = read_strong_tsv(path)
    assert list(result.columns) == ["filename", "onset", "offset", "event_label"]
    assert list(result["filename"]) == ["a.wav", "b.wav", "a.wav"]
    assert result["onset"].dtype == result["offset"].dtype == float
    assert result.iloc[1].isna().sum() == 3
    official = pd.read_csv(path, sep="\t")
    pd.testing.assert_frame_equal(result, official, check_dtype=False)


def test_other_columns_orders_and_line_ends_do_not_matter(table):
    text = "event_label\textra\tfilename\toffset\tonset\r\nDog\tx\ta.wav\t2\t1\r\n"
    result = read_strong_tsv(table(b"\xef\xbb\xbf" + text.encode()))
    assert result.to_dict("records") == [
        {"filename": "a.wav", "onset": 1.0, "offset": 2.0, "event_label": "Dog"}
    ]


def test_a_quote_or_the_word_nan_does_not_swallow_rows(table):
    text = f'{STRONG}"a.wav\t1\t2\tDog\nb.wav\tnan\tNaN\t\nc.wav\t1\t2\tCat\n'
    result = read_strong_tsv(table(text))
    assert list(result["filename"]) == ['"a.wav', "b.wav", "c.wav"]
    assert np.isnan(result["onset"][1])


def test_real_tables(shared):
    folder = shared / "golden" / "desed_metadata"
    events = read_strong_tsv(folder / "validation.tsv")
    assert events["filename"].nunique() == 1168
    assert events["event_label"].isna().sum() == 15
    assert len(read_weak_tsv(folder / "weak.tsv")) == 1578
    durations = read_durations(folder / "validation_durations.tsv")
    assert set(events["filename"]) <= set(durations["filename"])


SOFT = "filename\tonset\toffset\tevent_label\tconfidence\n"
BLANK = f"\n  \n{STRONG}\na.wav\t1\t2\tDog\n   \n\n"


@pytest.mark.parametrize(
    ("reader", "content", "words"),
    [
        (read_strong_tsv, f"{STRONG}a.wav\t2\t1\tDog", "line 2: the onset 2 .* the offset 1"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\t1\tDog", "is not before"),
        (read_strong_tsv, f"{STRONG}a.wav\t-1\t1\tDog", "-1 is negative"),
        (read_strong_tsv, f"{STRONG}a.wav\tone\t2\tDog", "onset is 'one'"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\tinf\tDog", "offset is 'inf'"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\t2\tDoge", "did you mean 'Dog'"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\t2\tzzz", "'zzz' is unknown; the classes are Alarm"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\t2\t", "all given or all empty"),
        (read_strong_tsv, f"{STRONG}a.wav\t\t\tDog", "all given or all empty"),
        (read_strong_tsv, f"{STRONG}a.wav\t1", "all given or all empty"),
        (read_strong_tsv, f"{STRONG}\t1\t2\tDog", "filename is empty"),
        (read_strong_tsv, f"{STRONG}../../a.wav\t1\t2\tDog", "leads out of the audio folder"),
        (read_strong_tsv, f"{STRONG}/etc/passwd\t1\t2\tDog", "leads out"),
        (read_strong_tsv, f"{STRONG}C:\\a.wav\t1\t2\tDog", "leads out"),
        (read_strong_tsv, f"{STRONG}a.wav\t1\t2\tDog\tmore", "line 2: there are more fields"),
        # The lines are the file's, blank ones among them.
        (read_strong_tsv, f"{BLANK}c.wav\t1\t2\tWolf\n", "line 8: the class 'Wolf'"),
        (
            read_strong_tsv,
            f"{BLANK}c.wav\t3\t2\tDog\n".replace("\n", "\r\n"),
            "line 8: the onset 3",
        ),
        (read_strong_tsv, f"{SOFT}a.wav\t0\t1\tDog\t1.5", "line 2: confidence is '1.5'"),
        (read_strong_tsv, f"{SOFT}a.wav\t0\t1\tDog\tsure", "line 2: confidence is 'sure'"),
        (read_strong_tsv, "", "no column 'filename'"),
        (read_strong_tsv, "filename\tonset\toffset\n", "no column 'event_label'"),
        (read_strong_tsv, b"\xff\xfe\x00\x01", "not UTF-8"),
        (read_events, f"{STRONG}a.wav\t2\t1\tWolf\n", "line 2: the onset 2 .* the offset 1"),
        (read_events, STRONG.replace("\t", ","), r"table\.tsv has no column .* by tabs"),
        (read_weak_tsv, f"{WEAK}a.wav\tCat,Dgo\n", "line 2: the class 'Dgo' .* 'Dog'"),
        (read_weak_tsv, f"{WEAK}a.wav\tCat,\n", "the class '' is unknown"),
        (read_weak_tsv, f"{WEAK}a.wav\tCat\na.wav\tDog\n", "line 3: a.wav has a row already"),
        (read_durations, f"{DURATIONS}a.wav\t0\n", "duration 0 is not above"),
        (read_durations, f"{DURATIONS}a.wav\tlong\n", "duration is 'long'"),
        (read_durations, f"{DURATIONS}a\t1\n\n\na\t1\n", "line 5: a has a row already"),
    ],
)
def test_what_is_wrong_is_named(table, reader, content, words):
    with pytest.raises(InputError, match=words) as error:
        reader(table(content))
    assert "table.tsv" in str(error.value)
    assert "\n" not in str(error.value)


def test_blank_lines_are_no_rows(table):
    result = read_strong_tsv(table(f"{BLANK}c.wav\t1\t2\tDog\n"))
    assert result.index.tolist() == [0, 1]


def test_a_table_is_written_as_it_is_read(table):
    names = ['a "b".wav', "c's.wav", "ü/d.WAV"]
    rows = "".join(f"{name}\t0.25\t10.015\tDog\n" for name in names) + "e.wav\t\t\t\n"
    result = read_strong_tsv(table(STRONG + rows))
    assert result["filename"].tolist() == [*names, "e.wav"]
    assert to_tsv(result) == STRONG + rows
    assert to_tsv(result.assign(filename="a\tb")).count("\n") == 5


def test_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv does not exist"):
        read_durations(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="not a file"):
        read_durations(tmp_path)


def test_confidences_of_soft_labels(table):
    rows = "a.wav\t0\t1\tDog\t0.25\na.wav\t1\t2\tDog\t\nb.wav\t\t\t\t\na.wav\t1\t2\tCat\t0\n"
    result = read_strong_tsv(table(SOFT + rows))
    assert list(result.columns) == SOFT.split()
    assert result["confidence"].dropna().tolist() == [0.25, 1.0, 0.0]
    assert result["confidence"].isna().tolist() == [False, False, True, False]
    # Of a system's detections the column may be anything.
    assert "confidence" not in read_events(table(SOFT + rows))
    assert "confidence" in read_events(table(SOFT + rows), soft=True)


def test_the_reference_holds_what_is_likelier_than_not_joined_where_it_touches(table):
    events = [
        ("b.wav", 0, 1, "Dog", 0.5),
        ("a.wav", 2, 3, "Dog", 0.9),
        ("a.wav", 1, 2, "Dog", 0.6),
        ("a.wav", 0, 1, "Dog", 0.4),
        ("a.wav", 1, 2, "Cat", 0.7),
        ("a.wav", 3.5, 4, "Dog", 1.0),
        ("c.wav", 0, 1, "Dog", 0.49),
    ]
    rows = "".join("\t".join(map(str, event)) + "\n" for event in events)
    result = read_reference(table(f"{SOFT}{rows}d.wav\t\t\t\t\n"))
    assert result.to_csv(header=False, index=False).split() == [
        "b.wav,0.0,1.0,Dog",
        "a.wav,1.0,2.0,Cat",
        "a.wav,1.0,3.0,Dog",
        "a.wav,3.5,4.0,Dog",
        "c.wav,,,",
        "d.wav,,,",
    ]


def test_a_reference_of_hard_labels_is_the_table(table):
    path = table(f"{STRONG}a.wav\t1\t2\tDog\na.wav\t2\t3\tDog\nb.wav\t\t\t\n")
    pd.testing.assert_frame_equal(read_reference(path), read_strong_tsv(path))


def test_any_class_that_a_configuration_may_name(table):
    assert len(read_strong_tsv(table(f"{STRONG}a.wav\t1\t2\tsiren"), None)) == 1
    with pytest.raises(InputError, match="line 2: the class 'siren, far' has a comma"):
        read_strong_tsv(table(f"{STRONG}a.wav\t1\t2\tsiren, far"), None)


def test_weak_table(table):
    result = read_weak_tsv(table(f"{WEAK}a.wav\tCat,Dog\nb.wav\t\n"))
    assert list(result["event_labels"]) == ["Cat,Dog", ""]


def test_events_of_any_system(table, tmp_path):
    rows = "a.wav\t1\t2\tWolf\nb.wav\t\t\t\na.wav\t10\t10\tSnow\n"
    result = read_events(table(f"{STRONG}{rows}"))
    assert result["event_label"].dropna().tolist() == ["Wolf", "Snow"]
    # As pandas writes it by default: commas, and a column of numbers in front.
    result.to_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read_events(tmp_path / "table.csv"), result)
    assert read_events(table(STRONG)).empty
    (tmp_path / "table.csv").write_text(STRONG)
    with pytest.raises(InputError, match=r"table\.csv has no column .* separated by commas"):
        read_events(tmp_path / "table.csv")


def test_two_spellings_of_a_class_are_one(tmp_path):
    path = tmp_path / "events.tsv"
    rows = [f"a.wav\t0\t1\t{label}" for label in ("caf\u00e9", "cafe\u0301")]
    path.write_text("\n".join(["filename\tonset\toffset\tevent_label", *rows]), encoding="utf-8")
    assert read_strong_tsv(path, None)["event_label"].unique().tolist() == ["caf\u00e9"]
    path.write_text("filename\tevent_labels\na.wav\tcafe\u0301,dog", encoding="utf-8")
    assert read_weak_tsv(path, ["caf\u00e9", "dog"])["event_labels"].tolist() == ["caf\u00e9,dog"]


NAMES = ["a.wav", "sub/a.wav", "", "nan", "a\0.wav", "~/a.wav", "..", "a/../../b.wav"]
NAMES += ["/etc/passwd", "..\\a.wav", "C:\\a.wav", "\\\\host\\share\\a.wav"]
NUMBERS = ["0", "1.5", "10", "-1", "nan", "inf", "1e400", "1_0", "", " 2 ", "0x10", "1,5", "\u0665"]
LABELS = ["Dog", "Cat", "", "Dog,Cat", "dog", "Dog,", ",", "NaN"]
FIELDS = {
    "filename": st.sampled_from(NAMES) | st.text(max_size=8),
    "onset": st.sampled_from(NUMBERS),
    "offset": st.sampled_from(NUMBERS) | st.floats().map(str),
    "duration": st.sampled_from(NUMBERS) | st.floats().map(str),
    "event_label": st.sampled_from(LABELS) | st.text(max_size=6),
    "event_labels": st.sampled_from(LABELS) | st.text(max_size=6),
}


@st.composite
def tables(draw, header):
    """The right header, or nearly; rows of plausible and implausible fields; any line ends."""
    columns = header.split()
    lines = [draw(st.sampled_from([header.strip()] * 5 + ["x\t" + header.strip(), '"', ""]))]
    for _ in range(draw(st.integers(0, 4))):
        lines.append("\t".join(draw(FIELDS[column]) for column in columns))
    text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")


@pytest.mark.parametrize(
    ("reader", "header"),
    [
        (read_events, STRONG),
        (read_strong_tsv, STRONG),
        (read_weak_tsv, WEAK),
        (read_durations, DURATIONS),
        (read_filenames, "filename\n"),
    ],
)
@fuzz
@given(data=st.data())
def test_whatever_a_table_holds_it_is_sound_or_refused(tmp_path, reader, header, data):
    content = data.draw(tables(header) | st.binary(max_size=300))
    rows = read_or_refuse(reader, tmp_path / "table.tsv", content)
    if rows is None:
        return
    folder = os.path.realpath(tmp_path)
    for name in rows if reader is read_filenames else rows["filename"]:
        assert name
        inside = os.path.realpath(os.path.join(folder, name))
        assert os.path.commonpath([folder, inside]) == folder
    if reader in (read_events, read_strong_tsv):
        events = rows.dropna()
        assert (events["onset"] <= events["offset"]).all()
        assert (events["onset"] >= 0).all()
        assert np.isfinite(events["offset"]).all()
    if reader is read_strong_tsv:
        assert set(events["event_label"]) <= set(CLASSES)
        # A row has an event or has none.
        assert len(events) == rows["event_label"].notna().sum()
    if reader is read_durations:
        assert (rows["duration"] > 0).all()
        assert np.isfinite(rows["duration"]).all()
