import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lab.data import annotations
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.soundscapes import layout, worker
from lab.soundscapes.generate import generate
from lab.soundscapes.mixing import Event
from lab.soundscapes.waves import RATE, noise

FEW = {"strong": 3, "weak": 2, "unlabelled": 2, "validation": 2, "test": 2}
NONE = dict.fromkeys(FEW, 0)


def contents(folder):
    """Relative path to digest, for all files but the manifest's folder-independent self."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("few"), **FEW, processes=1, progress=False)


def test_the_layout_is_the_official_one(few):
    files = set(contents(few))
    audio = {path for path in files if path.endswith(".wav")}
    assert files - audio == {
        "soundscapes.json",
        "metadata/train/synthetic21_train/soundscapes.tsv",
        "metadata/train/weak.tsv",
        "metadata/validation/synthetic21_validation/soundscapes.tsv",
        "metadata/validation/synthetic21_validation/durations.tsv",
        "metadata/validation/validation.tsv",
        "metadata/validation/validation_durations.tsv",
    }
    assert {str(Path(path).parent) for path in audio} == {
        "audio/train/synthetic21_train/soundscapes_16k",
        "audio/train/weak_16k",
        "audio/train/unlabel_in_domain_16k",
        "audio/validation/synthetic21_validation/soundscapes_16k",
        "audio/validation/validation_16k",
    }
    assert len(audio) == sum(FEW.values())
    for path in audio:
        info = soundfile.info(few / path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert info.frames == 160000


def test_tables_name_the_files_and_every_labelled_clip_has_events(few):
    for name, table in (
        ("strong", "metadata/train/synthetic21_train/soundscapes.tsv"),
        ("validation", "metadata/validation/synthetic21_validation/soundscapes.tsv"),
        ("test", "metadata/validation/validation.tsv"),
    ):
        events = annotations.read_strong_tsv(few / table)
        folder = few / layout.SUBSETS[name].audio
        assert set(events.filename) == {path.name for path in folder.iterdir()}
        assert not events.isna().any().any()
    weak = annotations.read_weak_tsv(few / "metadata/train/weak.tsv")
    assert set(weak.filename) == {p.name for p in (few / "audio/train/weak_16k").iterdir()}
    durations = annotations.read_durations(few / layout.SUBSETS["test"].durations)
    assert durations.to_dict("list") == {
        "filename": ["test_00000.wav", "test_00001.wav"],
        "duration": [10, 10],
    }


def test_rows_of_the_tables():
    events = [Event(0.5, 1.25, "Dog"), Event(1.0, 3.0, "Cat"), Event(4.0, 5.0, "Dog")]
    strong, weak = (layout.rows(layout.SUBSETS[name], 0, events) for name in ("strong", "weak"))
    assert strong.splitlines()[0] == "strong_00000.wav\t0.500\t1.250\tDog"
    assert weak == "weak_00000.wav\tCat,Dog\n"


@pytest.mark.slow
def test_files_are_the_same_for_any_number_of_processes(few, tmp_path):
    generate(tmp_path / "two", **FEW, processes=2, progress=False)
    assert contents(tmp_path / "two") == contents(few)


def test_a_complete_tree_is_left_alone(few):
    before = {path: path.stat().st_mtime_ns for path in few.rglob("*")}
    assert generate(few, **FEW, processes=2) == few
    assert {path: path.stat().st_mtime_ns for path in few.rglob("*")} == before


@pytest.fixture
def make_bank(tmp_path):
    def make(name, hertz, classes=CLASSES):
        for folder in [f"foreground/{label}" for label in classes] + ["background/room"]:
            (tmp_path / name / folder).mkdir(parents=True)
            wave = noise(2 * RATE, np.random.default_rng(0), 0.9 * hertz, 1.1 * hertz)
            soundfile.write(tmp_path / name / folder / "a.wav", 0.1 * wave, RATE)
        return tmp_path / name

    return make


def centroid(path):
    wave, _ = soundfile.read(path)
    power = np.abs(np.fft.rfft(wave)) ** 2
    return (np.fft.rfftfreq(len(wave), 1 / RATE) * power).sum() / power.sum()


def test_clips_of_any_classes(tmp_path, make_bank, own_classes):
    bank = make_bank("bank", 1000, own_classes)
    settings = {**NONE, "strong": 6, "weak": 3, "progress": False, "processes": 1}
    out = generate(tmp_path / "out", **settings, soundbank=bank)
    events = annotations.read_strong_tsv(out / layout.SUBSETS["strong"].table, own_classes)
    assert events["event_label"].nunique() > 2
    assert annotations.read_weak_tsv(out / layout.SUBSETS["weak"].table, own_classes).size == 6
    other = make_bank("other", 1000, own_classes[1:])
    with pytest.raises(InputError, match=r"bank has the class 'NA' and \S+other has not; g"):
        generate(tmp_path / "new", **settings, soundbank=bank, test_soundbank=other)
    with pytest.raises(InputError, match=r"bank has the class 'NA' and \S+other has not; g"):
        generate(tmp_path / "new", **settings, soundbank=other, validation_soundbank=bank)
    assert not (tmp_path / "new").exists()


def test_a_broken_recording_is_named(tmp_path, make_bank):
    bank = make_bank("bank", 1000)
    (bank / "background" / "room" / "a.wav").write_bytes(b"not audio")
    with pytest.raises(InputError, match=r"a\.wav cannot be read as audio"):
        generate(tmp_path / "out", **{**NONE, "weak": 2}, soundbank=bank, processes=1)


class Killed(BaseException):
    """Ends a run in its midst."""


def test_a_stopped_run_goes_on_to_the_same_files(few, tmp_path, monkeypatch):
    done = []

    def make(clip, **settings):
        if len(done) == 4:
            raise Killed
        done.append(clip)
        worker.make_clip(clip, **settings)

    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["lab.soundscapes.generate"], "make_clip", make)
    with pytest.raises(Killed):
        generate(tmp_path, **FEW, processes=1, progress=False)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.wav"))) == 4
    assert not (tmp_path / layout.SUBSETS["strong"].table).exists()
    folder = tmp_path / layout.SUBSETS["strong"].audio
    (folder / ".strong_00002-partial-1.wav").write_bytes(b"RIFF")
    (folder / "strong_00001.wav").unlink()
    kept = (folder / "strong_00000.wav").stat().st_mtime_ns
    generate(tmp_path, **FEW, processes=1, progress=False)
    assert (folder / "strong_00000.wav").stat().st_mtime_ns == kept
    assert contents(tmp_path) == contents(few)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("strong", -1),
        ("seed", -1),
        ("processes", 0),
        ("density", 0.5),
        ("density", float("nan")),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, setting, value):
    flag = setting.replace("_", "-")
    with pytest.raises(InputError, match=f"--{flag} is {value!r}"):
        generate(tmp_path / "new", **{**FEW, setting: value})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("metadata/mine.tsv", "precious", "metadata exists"),
        ("soundscapes.json", "{", "soundscapes.json cannot be read"),
        ("soundscapes.json", "[]", "was made with format none, not 1"),
    ],
)
def test_a_folder_of_something_else_is_refused_untouched(tmp_path, path, content, words):
    (tmp_path / "audio").mkdir()
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(content)
    with pytest.raises(InputError, match=words.replace("metadata", "(metadata|audio)")):
        generate(tmp_path, **FEW)
    with pytest.raises(InputError, match="is a file"):
        generate(tmp_path / path, **FEW)
    assert list(contents(tmp_path)) == [path]
    assert (tmp_path / path).read_text() == content


@pytest.mark.parametrize(
    "change",
    [{"seed": 5}, {"strong": 4}, {"augment": True}],
)
def test_a_tree_of_other_settings_is_refused_untouched(few, change):
    before = contents(few)
    ((key, value),) = change.items()
    with pytest.raises(InputError, match=f"was made with {key} .*, not {value}"):
        generate(few, **{**FEW, **change}, processes=1)
    assert contents(few) == before


@pytest.mark.parametrize("change", [{"augment": True}, {"density": 2}, {"in_domain": "weak"}])
def test_what_changes_training_clips_changes_them_alone(few, tmp_path, change):
    settings = {**FEW, **change, "processes": 1, "progress": False}
    before, after = contents(few), contents(generate(tmp_path, **settings))
    assert set(before) == set(after)
    for path, digest in before.items():
        parts = Path(path).parts
        spared = "in_domain" in change and "synthetic21_train" in parts  # the strong clips
        expected = path == layout.MANIFEST or ("train" in parts and not spared)
        assert (after[path] != digest) == expected, path


def test_recordings_of_each_part_come_from_its_bank(tmp_path, make_bank):
    low, mid, high = (make_bank(f"at_{hertz}", hertz) for hertz in (800, 1500, 3000))
    settings = {**NONE, "strong": 2, "validation": 1, "test": 1, "progress": False}
    own = {"validation_soundbank": mid, "test_soundbank": high}
    out = generate(tmp_path / "out", **settings, soundbank=low, **own)
    for name, expected in (("strong", 800), ("validation", 1500), ("test", 3000)):
        for path in (out / layout.SUBSETS[name].audio).iterdir():
            assert centroid(path) == pytest.approx(expected, rel=0.25)
    for key, folder in own.items():
        others = {name: bank for name, bank in own.items() if name != key}
        with pytest.raises(InputError, match=f"was made with {key} .*, not none"):
            generate(out, **settings, soundbank=low, **others)
        with pytest.raises(InputError, match=f"--{key.replace('_', '-')} .* needs --soundbank"):
            generate(tmp_path / "new", **settings, **{key: folder})
