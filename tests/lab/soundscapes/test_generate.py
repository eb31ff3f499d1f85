import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lab.data import annotations
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import left_over
from lab.soundscapes import generate as package_generate
from lab.soundscapes import layout
from lab.soundscapes.generate import generate
from lab.soundscapes.waves import RATE, noise

FEW = {"strong": 3, "weak": 2, "unlabelled": 2, "validation": 2, "test": 2}
NONE = dict.fromkeys(FEW, 0)
RECIPES = Path(__file__).resolve().parents[3] / "recipes"
COMMAND = [sys.executable, str(RECIPES / "generate.py")]


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


def test_the_package_exports_generate():
    assert package_generate is generate


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


@pytest.mark.slow
def test_files_are_the_same_for_any_number_of_processes(few, tmp_path):
    generate(tmp_path / "two", **FEW, processes=2, progress=False)
    assert contents(tmp_path / "two") == contents(few)


@pytest.mark.slow
def test_workers_take_the_standard_library_first(tmp_path):
    # As in site-packages, where pathlib's old backport comes with some packages.
    shutil.copytree(RECIPES / "lab", tmp_path / "packages" / "lab")
    (tmp_path / "packages" / "pathlib.py").write_text("raise ImportError\n")
    code = f"""
import sys
sys.path.append({str(tmp_path / "packages")!r})
from lab.soundscapes import generate
generate("out", strong=2, weak=0, unlabelled=0, validation=0, test=0, processes=2, progress=False)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_it_starts_without_torch():
    code = "import sys, lab.soundscapes; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=RECIPES) == b"False\n"


def test_seeds_and_subsets_differ(few, tmp_path):
    other = generate(tmp_path, **FEW, seed=1, processes=1, progress=False)
    wavs = [d for tree in (few, other) for p, d in contents(tree).items() if p.endswith(".wav")]
    assert len(set(wavs)) == 2 * sum(FEW.values())


def test_a_complete_tree_is_left_alone(few):
    before = {path: path.stat().st_mtime_ns for path in few.rglob("*")}
    assert generate(few, **FEW, processes=2) == few
    assert {path: path.stat().st_mtime_ns for path in few.rglob("*")} == before


def test_what_is_missing_or_broken_is_made_again(tmp_path):
    settings = {**NONE, "strong": 3, "test": 1}
    generate(tmp_path, **settings, processes=1, progress=False)
    before = contents(tmp_path)
    audio = tmp_path / layout.SUBSETS["strong"].audio
    (audio / "strong_00000.wav").unlink()
    (audio / "strong_00001.wav").write_bytes(b"RIFF")
    (tmp_path / layout.SUBSETS["test"].table).unlink()
    generate(tmp_path, **settings, processes=1, progress=False)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_files(tmp_path):
    """SIGKILL in the midst of the work; then also a truncated clip and a stale partial file."""
    count = 24
    settings = {**NONE, "strong": count}
    arguments = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "killed"
    audio = out / layout.SUBSETS["strong"].audio
    run = subprocess.Popen([*COMMAND, "--out", str(out), *arguments, "--processes", "2"])
    try:
        deadline = time.monotonic() + 60
        while len(list(audio.glob("*.wav"))) < 4:
            assert run.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    finally:
        run.kill()
        run.wait()
    done = sorted(audio.glob("*.wav"))
    while True:  # the workers notice within a clip that nobody listens, and end
        time.sleep(0.5)
        if sorted(audio.glob("*.wav")) == done:
            break
        done = sorted(audio.glob("*.wav"))
    assert 4 <= len(done) < count
    assert all(layout.is_whole(path) for path in done)
    assert not (out / layout.SUBSETS["strong"].table).exists()
    kept = {path: path.stat().st_mtime_ns for path in done[1:]}

    done[0].write_bytes(done[0].read_bytes()[:5000])
    stale = audio / ".strong_00023-partial-1.wav"
    stale.write_bytes(b"RIFF")
    generate(out, **settings, processes=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    whole = tmp_path / "whole"
    generate(whole, **settings, processes=1, progress=False)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("change", [{"seed": 5}, {"strong": 4}, {"test": 0}])
def test_a_tree_of_other_settings_is_refused_untouched(few, change):
    before = contents(few)
    (key,) = change
    with pytest.raises(
        InputError, match=f"was made with {key} .*, not {change[key]}; give another"
    ):
        generate(few, **{**FEW, **change}, processes=1)
    assert contents(few) == before


def test_a_tree_that_is_not_ours_is_refused_untouched(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "mine.tsv").write_text("precious")
    with pytest.raises(InputError, match="was not made by this command"):
        generate(tmp_path, **FEW)
    assert list(contents(tmp_path)) == ["metadata/mine.tsv"]


def test_an_unreadable_manifest_is_refused(few, tmp_path):
    (tmp_path / "audio").mkdir()
    for content in ("{", "[]"):
        (tmp_path / layout.MANIFEST).write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            generate(tmp_path, **FEW)


def test_settings_may_change_as_long_as_there_is_no_clip(tmp_path):
    (tmp_path / layout.MANIFEST).write_text(json.dumps({"seed": 99}))
    generate(tmp_path, **{**NONE, "weak": 1}, processes=1, progress=False)
    assert json.loads((tmp_path / layout.MANIFEST).read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strong", -1),
        ("weak", 1.5),
        ("unlabelled", "10"),
        ("validation", True),
        ("test", None),
        ("seed", -3),
        ("processes", 0),
    ],
)
def test_numbers_that_make_no_sense_are_named(tmp_path, name, value):
    with pytest.raises(InputError, match=f"--{name} is {value!r}"):
        generate(tmp_path / "new", **{**FEW, name: value})
    assert not (tmp_path / "new").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        generate(tmp_path / "file", **FEW)
    with pytest.raises(InputError, match="cannot be written"):
        generate(tmp_path / "file" / "below", **FEW)
    assert (tmp_path / "file").read_text() == "mine"


def test_more_clips_than_the_disk_holds_are_refused_at_once(tmp_path):
    too_many = shutil.disk_usage(tmp_path).free // layout.WAV_SIZE + 10_000
    with pytest.raises(InputError, match=r"needs \d+\.\d GB and its disk has"):
        generate(tmp_path, **{**NONE, "strong": too_many})
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_keeps_what_is_done(tmp_path):
    limited = f"""
import resource
from generate import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
main(["--out", {str(tmp_path)!r}, "--strong", "2", "--processes", "1"])
"""
    run = subprocess.run(
        [sys.executable, "-c", limited], cwd=RECIPES, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: ")
    assert "cannot be written (File too large)" in run.stderr
    assert not left_over(tmp_path)
    assert not list(tmp_path.rglob("*.wav"))


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


def test_recordings_replace_the_parametric_sounds(tmp_path, make_bank):
    low, high = make_bank("low", 800), make_bank("high", 3000)
    settings = {**NONE, "strong": 2, "validation": 1, "test": 1, "progress": False}
    out = generate(tmp_path / "out", **settings, soundbank=low, test_soundbank=high, processes=1)
    for name, expected in (("strong", 800), ("validation", 800), ("test", 3000)):
        for path in (out / layout.SUBSETS[name].audio).iterdir():
            assert centroid(path) == pytest.approx(expected, rel=0.25)
    same = generate(tmp_path / "same", **settings, soundbank=low, processes=1)
    assert centroid(same / layout.SUBSETS["test"].audio / "test_00000.wav") < 1100
    with pytest.raises(InputError, match=r"was made with soundbank .*, not none"):
        generate(out, **settings)


def test_clips_of_any_classes(tmp_path, make_bank, own_classes):
    bank = make_bank("bank", 1000, own_classes)
    settings = {**NONE, "strong": 6, "weak": 3, "progress": False, "processes": 1}
    out = generate(tmp_path / "out", **settings, soundbank=bank)
    events = annotations.read_strong_tsv(out / layout.SUBSETS["strong"].table, own_classes)
    assert events["event_label"].nunique() > 2
    assert annotations.read_weak_tsv(out / layout.SUBSETS["weak"].table, own_classes).size == 6
    other = make_bank("other", 1000, own_classes[1:])
    with pytest.raises(InputError, match=r"bank has the class 'car_horn' and \S+other has not; g"):
        generate(tmp_path / "new", **settings, soundbank=bank, test_soundbank=other)
    with pytest.raises(InputError, match=r"bank has the class 'car_horn' and \S+other has not; g"):
        generate(tmp_path / "new", **settings, soundbank=other, validation_soundbank=bank)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_broken_recording_is_named_by_the_worker(tmp_path, make_bank):
    bank = make_bank("bank", 1000)
    (bank / "background" / "room" / "a.wav").write_bytes(b"not audio")
    for processes in (1, 2):
        with pytest.raises(InputError, match=r"a\.wav cannot be read as audio"):
            generate(tmp_path / "out", **{**NONE, "weak": 2}, soundbank=bank, processes=processes)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_soundbank_of_a_part_alone_is_refused(tmp_path, make_bank, part):
    bank = {f"{part}_soundbank": make_bank("bank", 1000)}
    with pytest.raises(InputError, match=f"--{part}-soundbank .* needs --soundbank"):
        generate(tmp_path / "out", **FEW, **bank)


@pytest.fixture(
    scope="module", params=[{"augment": True}, {"density": 2}, {"in_domain": "weak"}], ids=str
)
def changed(request, tmp_path_factory):
    """What was asked for, and the tree."""
    out = tmp_path_factory.mktemp("changed")
    return request.param, generate(out, **FEW, **request.param, processes=1, progress=False)


def test_what_changes_training_clips_changes_them_alone(few, changed):
    settings, out = changed
    before, after = contents(few), contents(out)
    assert set(before) == set(after)
    for path, digest in before.items():
        parts = Path(path).parts
        spared = "in_domain" in settings and "synthetic21_train" in parts  # the strong clips
        expected = path == layout.MANIFEST or ("train" in parts and not spared)
        assert (after[path] != digest) == expected, path


def test_changed_files_are_the_same_for_any_number_of_processes(changed, tmp_path):
    settings, out = changed
    generate(tmp_path, **FEW, **settings, processes=2, progress=False)
    assert contents(tmp_path) == contents(out)


def test_changed_and_other_trees_are_not_mixed(few, changed):
    settings, out = changed
    (key,) = settings
    with pytest.raises(
        InputError, match=f"was made with {key} (True, not False|2.0, not 1.0|weak, not none)"
    ):
        generate(out, **FEW)
    with pytest.raises(
        InputError, match=f"was made with {key} (False, not True|1.0, not 2.0|none, not weak)"
    ):
        generate(few, **FEW, **settings)


def test_a_tree_from_before_augmentation_goes_on(tmp_path):
    settings = {**NONE, "strong": 1, "processes": 1, "progress": False}
    generate(tmp_path, **settings)
    manifest = tmp_path / layout.MANIFEST
    made_with = json.loads(manifest.read_text())
    for later in ("augment", "density", "in_domain", "validation_soundbank"):
        del made_with[later]
    manifest.write_text(json.dumps(made_with))
    generate(tmp_path, **settings)
    with pytest.raises(InputError, match="was made with augment False, not True"):
        generate(tmp_path, **settings, augment=True)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"augment": "yes"}, "--augment is 'yes'"),
        ({"in_domain": True}, "--in-domain is True; give weak or all"),
        ({"density": 0.5}, "--density is 0.5; give a number from 1 to 3"),
        ({"density": float("nan")}, "--density is nan"),
        ({"density": "2"}, "--density is '2'"),
        ({"density": True}, "--density is True"),
    ],
)
def test_augmentation_that_makes_no_sense_is_named(tmp_path, settings, complaint):
    with pytest.raises(InputError, match=complaint):
        generate(tmp_path / "new", **FEW, **settings)
    assert not (tmp_path / "new").exists()


def test_validation_clips_may_come_from_a_bank_of_their_own(tmp_path, make_bank):
    low, high = make_bank("low", 800), make_bank("high", 3000)
    settings = {**NONE, "strong": 2, "validation": 2, "test": 1, "progress": False}
    out = generate(
        tmp_path / "out", **settings, soundbank=low, validation_soundbank=high, processes=1
    )
    for name, expected in (("strong", 800), ("validation", 3000), ("test", 800)):
        for path in (out / layout.SUBSETS[name].audio).iterdir():
            assert centroid(path) == pytest.approx(expected, rel=0.25)
    with pytest.raises(InputError, match=r"was made with validation_soundbank .*, not none"):
        generate(out, **settings, soundbank=low)


def test_some_unlabelled_clips_are_empty_and_no_others():
    shares = {name: subset.empty_share for name, subset in layout.SUBSETS.items()}
    assert shares.pop("unlabelled") > 0
    assert set(shares.values()) == {0}


def test_no_clips_at_all_give_empty_tables(tmp_path):
    out = generate(tmp_path, **NONE, processes=1, progress=False)
    table = pd.read_csv(out / layout.SUBSETS["strong"].table, sep="\t")
    assert len(table) == 0
    assert os.listdir(out / layout.SUBSETS["strong"].audio) == []
