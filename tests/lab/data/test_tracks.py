"""Labels of Audacity and Raven, a file a recording, and the split of the recordings."""

import numpy as np
import pandas as pd
import pytest

from lab.data.annotations import EVENT
from lab.data.prepare import split
from lab.data.tracks import read_tracks
from lab.errors import InputError

RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tSpecies\n"


def read(folder, files, classes=None):
    """Events of the recordings that the files are named after."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return read_tracks(folder, [f"{name.split('.')[0]}.flac" for name in files], classes)


def test_tracks_of_audacity(tmp_path):
    label = "0.250000\t1.500000\tcar horn far\n"
    ranged = "1.000000\t2.000000\tdog\n\\\t200.000000\t4000.000000\n"
    files = {"a.txt": label + ranged, "sub/b.txt": "", "c.flac.txt": label.replace("\n", "\r\n")}
    expected = [
        ("a.flac", 0.25, 1.5, "car horn far"),
        ("a.flac", 1.0, 2.0, "dog"),
        ("sub/b.flac", np.nan, np.nan, np.nan),
        ("c.flac", 0.25, 1.5, "car horn far"),
    ]
    pd.testing.assert_frame_equal(read(tmp_path, files), pd.DataFrame(expected, columns=EVENT))


def test_tables_of_raven(tmp_path):
    # A selection stands once in each view.
    rows = [f"1\t{view} 1\t1\t0.5\t2.25\t0\tblack cap\n" for view in ("Waveform", "Spectrogram")]
    other = RAVEN.replace("Species", "Annotation").replace("Channel", "Species")
    files = {
        "a.Table.1.selections.txt": RAVEN + "".join(rows),
        "b.selections.txt": f"{other}1\tSpectrogram 1\twrong\t1\t2\t0\twren\n",
        "c.txt": RAVEN,
        "d.selections.txt": "",
    }
    expected = [
        ("a.flac", 0.5, 2.25, "black cap"),
        ("b.flac", 1.0, 2.0, "wren"),
        *((name, np.nan, np.nan, np.nan) for name in ("c.flac", "d.flac")),
    ]
    pd.testing.assert_frame_equal(read(tmp_path, files), pd.DataFrame(expected, columns=EVENT))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "0\t1\tdog\n\n2 3 dog\n", r"a\.txt, line 3: '2 3 dog' lacks an onset or offset"),
        ("a.txt", "0,5\t1\tdog", r"a\.txt, line 1: onset is '0,5'"),
        ("a.txt", "2\t1\tdog", "line 1: the onset 2 is not before the offset 1"),
        ("a.txt", "1\t1\tdog", "line 1: the onset 1 is not before"),
        ("a.txt", "-1\t1\tdog", "line 1: the onset -1 is negative"),
        ("a.txt", "0\t1\t", "line 1: the class '' is unknown"),
        ("a.txt", "0\t1\tdgo", "line 1: the class 'dgo' is unknown; did you mean 'dog'"),
        ("a.selections.txt", RAVEN.replace("End", "Stop"), r"no column 'End Time \(s\)'"),
        ("a.selections.txt", RAVEN.replace("Species", "Notes"), "no column of labels.*Notes"),
        ("a.selections.txt", f"{RAVEN}1\tS\t1\t0\tx\t0\tdog", "line 2: offset is 'x'"),
        ("a.selections.txt", f"{RAVEN}1\tS\t1\t0\t1\n", "line 2: the class '' is unknown"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, words):
    with pytest.raises(InputError, match=words) as error:
        read(tmp_path, {name: text}, ["dog", "cat"])
    assert "\n" not in str(error.value)


def test_a_recording_has_one_file_of_labels(tmp_path):
    (tmp_path / "a.txt").write_text("0\t1\tdog\n")
    with pytest.raises(InputError, match=r"1 of 2 recordings have no labels in .*: b\.wav;"):
        read_tracks(tmp_path, ["a.wav", "b.wav"])
    (tmp_path / "a.selections.txt").write_text(RAVEN)
    with pytest.raises(InputError, match=r"holds a\.selections\.txt and a\.txt for a\.wav"):
        read_tracks(tmp_path, ["a.wav"])


@pytest.mark.parametrize("seed", range(5))
def test_the_split_has_its_shares_and_the_training_every_class(seed):
    rng = np.random.default_rng(seed)
    names = [f"{number}.wav" for number in range(40)]
    labels = rng.choice(["dog", "cat", np.nan], 40).tolist()
    events = pd.DataFrame({"filename": names, "event_label": labels}).replace("nan", np.nan)
    events.loc[40] = ["7.wav", "rare"]
    sets = split(events, (70, 15, 15), seed)
    assert {name: len(clips) for name, clips in sets.items()} == {
        "training": 28,
        "validation": 6,
        "test": 6,
    }
    assert sorted(name for clips in sets.values() for name in clips) == sorted(names)
    assert "7.wav" in sets["training"]
    # Neither the order of the rows nor another run draws others.
    assert split(events[::-1], (70, 15, 15), seed) == sets
    assert split(events, (70, 15, 15), seed + 1) != sets


@pytest.mark.parametrize(
    ("shares", "recordings", "words"),
    [
        ((70, 15, 10), 9, "--split 70 15 10: give three shares above 0 that add up to 100"),
        ((110, -5, -5), 9, "three shares above 0"),
        ((98, 1, 1), 9, "9 training, 0 validation, 0 test of 9 recordings"),
        ((10, 45, 45), 9, "1 training, .* training 3 for its 3 classes"),
    ],
)
def test_shares_that_cannot_be_had_are_named(shares, recordings, words):
    names = [f"{number}.wav" for number in range(recordings)]
    events = pd.DataFrame({"filename": names, "event_label": ["a", "b", "c"] * 3})
    with pytest.raises(InputError, match=words):
        split(events, shares)
