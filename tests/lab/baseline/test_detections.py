"""Names of recordings, and the texts that hold their events."""

import json

import pandas as pd
import pytest

from lab.baseline.detections import COLUMNS, FORMATS, Detections, recordings_by_name
from lab.data.tracks import read_tracks
from lab.errors import InputError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_names_are_relative_to_the_folder_that_recordings_share(tmp_path, monkeypatch):
    touch(tmp_path, "rec/test/a.wav", "rec/test/b.wav", "rec/test/deep/b.wav", "rec/other/a.wav")
    test, other = tmp_path / "rec" / "test", tmp_path / "rec" / "other"
    assert list(recordings_by_name([test / "a.wav", test / "b.wav"])) == ["a.wav", "b.wav"]
    assert list(recordings_by_name([test])) == ["a.wav", "b.wav", "deep/b.wav"]
    assert recordings_by_name([test])["deep/b.wav"] == test / "deep" / "b.wav"
    assert list(recordings_by_name([test / "deep" / "b.wav"])) == ["b.wav"]
    two = recordings_by_name([test / "a.wav", other])
    assert two == {"test/a.wav": test / "a.wav", "other/a.wav": other / "a.wav"}
    monkeypatch.chdir(other)
    assert list(recordings_by_name(["a.wav", "../test/a.wav"])) == ["other/a.wav", "test/a.wav"]


def test_recordings_that_cannot_be_named_are_refused(tmp_path):
    touch(tmp_path, "a.wav")
    with pytest.raises(InputError, match=r"a\.wav is given twice"):
        recordings_by_name([tmp_path / "a.wav", tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no audio"):
        recordings_by_name([tmp_path / "empty"])


EVENTS = pd.DataFrame([["Dog", 0.12345, 1.5, 0.87651], ["Cat", 1.0, 2.25, 0.5]], columns=COLUMNS)
NONE = pd.DataFrame(columns=COLUMNS)


def test_formats():
    several = [
        Detections("b/a.wav", 2.5004, 8000.0, EVENTS),
        Detections("x\ty.wav", 1, 8000.0, NONE),
    ]
    assert FORMATS["tsv"].text(several) == (
        "filename\tonset\toffset\tevent_label\tconfidence\nb/a.wav\t0.123\t1.500\tDog\t0.877\n"
        "b/a.wav\t1.000\t2.250\tCat\t0.500\nx\\ty.wav\t\t\t\t\n"
    )
    assert FORMATS["audacity"].text(several) == "0.123450\t1.500000\tDog\n1.000000\t2.250000\tCat\n"
    assert json.loads(FORMATS["json"].text([])) == []
    first, second = json.loads(FORMATS["json"].text(several))
    assert first["duration"] == 2.5
    dog = {"event_label": "Dog", "onset": 0.123, "offset": 1.5, "confidence": 0.877}
    assert first["events"][0] == dog
    assert second == {"filename": "x\ty.wav", "duration": 1, "events": []}


def test_raven_tables_are_read_back(tmp_path):
    names = ["b/a.wav", "y.wav"]
    for name, events in zip(names, (EVENTS, NONE)):
        path = tmp_path / f"{name}{FORMATS['raven'].suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FORMATS["raven"].text([Detections(name, 2.5, 11025.0, events)]))
    head, first, _ = (tmp_path / "b" / "a.wav.selections.txt").read_text().splitlines()
    row = dict(zip(head.split("\t"), first.split("\t")))
    assert row == {
        **{"Selection": "1", "View": "Spectrogram 1", "Channel": "1", "Confidence": "0.877"},
        **{"Begin Time (s)": "0.123450", "End Time (s)": "1.500000", "Annotation": "Dog"},
        **{"Low Freq (Hz)": "0", "High Freq (Hz)": "11025"},
    }
    events = read_tracks(tmp_path, names)
    assert events.iloc[:2].to_numpy().tolist() == [
        ["b/a.wav", 0.12345, 1.5, "Dog"],
        ["b/a.wav", 1.0, 2.25, "Cat"],
    ]
    assert events.iloc[2:].set_index("filename").isna().all(axis=None)
