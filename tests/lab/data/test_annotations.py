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


def test_classes_are_the_ten_of_desed_in_order():
    assert len(CLASSES) == 10
    assert list(CLASSES) == sorted(CLASSES)


def test_strong_table(table):
    path = table(f"{STRONG}a.wav\t0.5\t2\tDog\nb.wav\t\t\t\na.wav\t0\t10.0\tSpeech\n")
    found = read_strong_tsv(path)
    assert list(found.columns) == ["filename", "onset", "offset", "event_label"]
    assert list(found["filename"]) == ["a.wav", "b.wav", "a.wav"]
    assert found["onset"].dtype == found["offset"].dtype == float
    assert found.iloc[1].isna().sum() == 3
    official = pd.read_csv(path, sep="\t")
    pd.testing.assert_frame_equal(found, official, check_dtype=False)


def test_other_columns_orders_and_line_ends_do_not_matter(table):
    text = "event_label\textra\tfilename\toffset\tonset\r\nDog\tx\ta.wav\t2\t1\r\n"
    found = read_strong_tsv(table(b"\xef\xbb\xbf" + text.encode()))
    assert found.to_dict("records") == [
        {"filename": "a.wav", "onset": 1.0, "offset": 2.0, "event_label": "Dog"}
    ]


def test_a_quote_or_the_word_nan_does_not_swallow_rows(table):
    text = f'{STRONG}"a.wav\t1\t2\tDog\nb.wav\tnan\tNaN\t\nc.wav\t1\t2\tCat\n'
    found = read_strong_tsv(table(text))
    assert list(found["filename"]) == ['"a.wav', "b.wav", "c.wav"]
    assert np.isnan(found["onset"][1])


def test_real_tables(shared):
    folder = shared / "golden" / "desed_metadata"
    events = read_strong_tsv(folder / "validation.tsv")
    assert events["filename"].nunique() == 1168
    assert events["event_label"].isna().sum() == 15
    assert len(read_weak_tsv(folder / "weak.tsv")) == 1578
    durations = read_durations(folder / "validation_durations.tsv")
    assert set(events["filename"]) <= set(durations["filename"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.wav\t2\t1\tDog", r"line 2: the onset 2 is not before the offset 1"),
        ("a.wav\t1\t1\tDog", "is not before"),
        ("a.wav\t-1\t1\tDog", "-1 is negative"),
        ("a.wav\tone\t2\tDog", "onset is 'one'; give a number"),
        ("a.wav\t1\tinf\tDog", "offset is 'inf'"),
        ("a.wav\t1\t2\tDoge", "did you mean 'Dog'"),
        ("a.wav\t1\t2\tzzz", "the classes are Alarm"),
        ("a.wav\t1\t2\t", "all given or all empty"),
        ("a.wav\t\t\tDog", "all given or all empty"),
        ("a.wav\t1", "all given or all empty"),
        ("\t1\t2\tDog", "filename is empty"),
        ("../../a.wav\t1\t2\tDog", "leads out of the audio folder"),
        ("/etc/passwd\t1\t2\tDog", "leads out"),
        ("C:\\a.wav\t1\t2\tDog", "leads out"),
        ("a.wav\t1\t2\tDog\tmore", "more fields"),
    ],
)
def test_bad_rows_are_named(table, row, words):
    with pytest.raises(InputError, match=words) as error:
        read_strong_tsv(table(f"{STRONG}{row}\n"))
    assert "table.tsv" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_line_of_a_bad_row_is_the_files(table):
    with pytest.raises(InputError, match="line 4"):
        read_strong_tsv(table(f"{STRONG}a.wav\t1\t2\tDog\nb.wav\t\t\t\nc.wav\t1\t2\tWolf\n"))


def test_blank_lines_are_lines(table):
    blank = "\n  \n" + STRONG + "\na.wav\t1\t2\tDog\n   \n\n"
    with pytest.raises(InputError, match="line 8: the class 'Wolf'"):
        read_strong_tsv(table(f"{blank}c.wav\t1\t2\tWolf\n"))
    with pytest.raises(InputError, match="line 8: the onset 3 is not before"):
        read_strong_tsv(table(f"{blank}c.wav\t3\t2\tDog\n".replace("\n", "\r\n")))
    found = read_strong_tsv(table(f"{blank}c.wav\t1\t2\tDog\n"))
    assert found.index.tolist() == [0, 1]
    with pytest.raises(InputError, match="line 4: the class 'Wolf'"):
        read_weak_tsv(table("filename\tevent_labels\n\n\nc.wav\tWolf\n"))
    with pytest.raises(InputError, match="line 5: a has a duration already"):
        read_durations(table("filename\tduration\na\t1\n\n\na\t1\n"))
    assert read_durations(table("filename\tduration\n\na\t1\n")).index.tolist() == [0]


def test_a_table_is_written_as_it_is_read(table):
    names = ['a "b".wav', "c's.wav", "ü/d.WAV"]
    rows = "".join(f"{name}\t0.25\t10.015\tDog\n" for name in names) + "e.wav\t\t\t\n"
    found = read_strong_tsv(table(STRONG + rows))
    assert found["filename"].tolist() == [*names, "e.wav"]
    assert to_tsv(found) == STRONG + rows
    assert to_tsv(found.assign(filename="a\tb")).count("\n") == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a tab-separated table"),
        ("filename,onset,offset,event_label\na.wav,1,2,Dog\n", "no column 'filename'"),
        ("filename\tonset\toffset\n", "no column 'event_label'"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (f"{STRONG}a.wav\t1\t2\tDog\nb\t1\t2\tDog\tx\ty\n", "not a tab-separated table"),
    ],
)
def test_what_is_no_table_is_refused(table, content, words):
    with pytest.raises(InputError, match=words) as error:
        read_strong_tsv(table(content))
    assert "\n" not in str(error.value)


def test_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv does not exist"):
        read_durations(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="not a file"):
        read_durations(tmp_path)


SOFT = "filename\tonset\toffset\tevent_label\tconfidence\n"


def test_confidences_of_soft_labels(table):
    rows = "a.wav\t0\t1\tDog\t0.25\na.wav\t1\t2\tDog\t\nb.wav\t\t\t\t\na.wav\t1\t2\tCat\t0\n"
    found = read_strong_tsv(table(SOFT + rows))
    assert list(found.columns) == SOFT.split()
    assert found["confidence"].dropna().tolist() == [0.25, 1.0, 0.0]
    assert found["confidence"].isna().tolist() == [False, False, True, False]
    # Of a system's detections the column may be anything.
    assert "confidence" not in read_events(table(SOFT + rows))
    assert "confidence" in read_events(table(SOFT + rows), soft=True)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "sure", "inf"])
def test_a_confidence_that_is_none_is_named(table, value):
    rows = f"a.wav\t0\t1\tDog\t0.5\na.wav\t1\t2\tDog\t{value}\n"
    with pytest.raises(
        InputError, match=f"line 3: confidence is '{value}'; give a number from 0 to"
    ):
        read_strong_tsv(table(SOFT + rows))


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
    found = read_reference(table(f"{SOFT}{rows}d.wav\t\t\t\t\n"))
    assert found.to_csv(header=False, index=False).split() == [
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


@pytest.mark.parametrize(
    ("label", "words"), [("siren, far", "has a comma"), ("a\u00a0", "")], ids=["comma", "any"]
)
def test_any_class_that_a_configuration_may_name(table, label, words):
    path = table(f"{STRONG}a.wav\t1\t2\t{label}\n")
    if words:
        with pytest.raises(InputError, match=f"line 2: the class '{label}' {words}"):
            read_strong_tsv(path, None)
    else:
        assert len(read_strong_tsv(path, None)) == 1


def test_weak_table(table):
    found = read_weak_tsv(table(f"{WEAK}a.wav\tCat,Dog\nb.wav\t\n"))
    assert list(found["event_labels"]) == ["Cat,Dog", ""]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.wav\tCat,Dgo\n", "line 2: the class 'Dgo' is unknown; did you mean 'Dog'"),
        ("a.wav\tCat,\n", "the class '' is unknown"),
        ("a.wav\tCat\na.wav\tDog\n", "line 3: a.wav has a row already"),
    ],
)
def test_bad_weak_rows_are_named(table, rows, words):
    with pytest.raises(InputError, match=words):
        read_weak_tsv(table(f"{WEAK}{rows}"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.wav\t0\n", "duration 0 is not above"),
        ("a.wav\t\n", "not above"),
        ("a.wav\tlong\n", "duration is 'long'"),
        ("a.wav\t1\na.wav\t2\n", "a duration already"),
    ],
)
def test_bad_durations_are_named(table, rows, words):
    with pytest.raises(InputError, match=words):
        read_durations(table(f"{DURATIONS}{rows}"))


def test_other_classes(table):
    path = table(f"{STRONG}a.wav\t1\t2\tWolf\n")
    assert len(read_strong_tsv(path, classes=["Wolf"])) == 1


def test_events_of_any_system(table, tmp_path):
    rows = "a.wav\t1\t2\tWolf\nb.wav\t\t\t\na.wav\t10\t10\tSnow\n"
    found = read_events(table(f"{STRONG}{rows}"))
    assert found["event_label"].dropna().tolist() == ["Wolf", "Snow"]
    # As pandas writes it by default: commas, and a column of numbers in front.
    found.to_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read_events(tmp_path / "table.csv"), found)
    assert read_events(table(STRONG)).empty
    with pytest.raises(InputError, match="line 2: the onset 2 is not before the offset 1"):
        read_events(table(f"{STRONG}a.wav\t2\t1\tWolf\n"))


def test_commas_are_told_from_tabs(table, tmp_path):
    with pytest.raises(InputError, match=r"table\.tsv has no column .* separated by tabs"):
        read_events(table("filename,onset,offset,event_label\n"))
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
