"""A clip depends on its seed, subset and number alone, and is never there without its events."""

import shutil

import numpy as np
import pytest
import soundfile

from dcase_coherence.data.desed import CLASSES
from dcase_coherence.soundscapes import layout, worker
from dcase_coherence.soundscapes.soundbank import ParametricSounds, RecordedSounds
from dcase_coherence.soundscapes.waves import RATE
from dcase_coherence.soundscapes.worker import Bank, make_clip, open_bank


def made(out, name="strong", index=0, seed=0, bank=None):
    """Audio and annotation of a clip, as bytes."""
    make_clip((name, index), out, seed, bank, None)
    subset = layout.SUBSETS[name]
    audio = out / subset.audio / subset.filename(index)
    assert layout.is_whole(audio)
    return audio.read_bytes(), layout.annotation_path(out, subset, index).read_bytes()


def test_the_same_clip_whatever_was_made_before(tmp_path):
    first = made(tmp_path / "a", index=3)
    np.random.seed(5)
    made(tmp_path / "b", index=2)
    made(tmp_path / "b", "weak", 3)
    assert made(tmp_path / "b", index=3) == first


def test_seed_subset_and_number_each_make_another_clip(tmp_path):
    clips = [
        made(tmp_path / "a"),
        made(tmp_path / "b", index=1),
        made(tmp_path / "c", "validation"),
        made(tmp_path / "d", seed=1),
    ]
    assert len({audio for audio, _ in clips}) == len({events for _, events in clips}) == 4


def test_events_are_written_before_the_audio(tmp_path, monkeypatch):
    written = []

    def full(path, content):
        written.append(path)
        if path.suffix == ".wav":
            raise OSError("No space left on device")
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    monkeypatch.setattr(worker, "write_whole", full)
    with pytest.raises(OSError, match="No space"):
        make_clip(("strong", 0), tmp_path, 0, None, None)
    kept = layout.annotation_path(tmp_path, layout.SUBSETS["strong"], 0)
    assert written[0] == kept
    assert layout.read_annotation(kept)


def test_parametric_sounds_of_the_test_have_the_whole_range():
    spreads = {part: open_bank(part, None, None) for part in ("train", "validation", "test")}
    assert all(type(sounds) is ParametricSounds for sounds in spreads.values())
    assert spreads["test"].spread == 1.0
    assert spreads["train"].spread == spreads["validation"].spread < 1.0


@pytest.fixture
def folder(tmp_path):
    """A soundbank of five recordings a class."""
    rng = np.random.default_rng(0)
    for place in [f"foreground/{label}" for label in CLASSES] + ["background/room"]:
        (tmp_path / "bank" / place).mkdir(parents=True)
        for number in range(5):
            sound = 0.1 * rng.standard_normal(RATE // 4)
            soundfile.write(tmp_path / "bank" / place / f"{number}.wav", sound, RATE)
    return tmp_path / "bank"


def bank_of(folder):
    return Bank(folder, RecordedSounds(folder).fingerprint())


def test_a_bank_is_read_once_and_again_when_its_folder_has_changed(folder):
    before = bank_of(folder)
    sounds = open_bank("train", before, None)
    assert open_bank("train", bank_of(folder), None) is sounds
    shutil.copy(folder / "foreground" / "Dog" / "0.wav", folder / "foreground" / "Dog" / "x.wav")
    after = bank_of(folder)
    assert after != before
    again = open_bank("train", after, None)
    assert len(again.files["Dog"]) == len(sounds.files["Dog"]) + 1


def test_recordings_of_the_validation_are_not_those_of_the_training(folder):
    bank = bank_of(folder)
    train, validation = (
        open_bank(part, bank, None).files["Cat"] for part in ("train", "validation")
    )
    assert (len(train), len(validation)) == (4, 1)
    assert set(train).isdisjoint(validation)
    assert len(open_bank("test", bank, None).files["Cat"]) == 5


def test_the_test_may_have_a_bank_of_its_own(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    bank, test_bank = bank_of(folder), bank_of(other)
    assert open_bank("test", bank, test_bank).folder == other
    assert open_bank("test", bank, None).folder == folder
    assert open_bank("validation", bank, test_bank).folder == folder


def test_a_clip_of_recordings(folder, tmp_path):
    bank = bank_of(folder)
    recorded = made(tmp_path / "a", bank=bank)
    assert recorded == made(tmp_path / "b", bank=bank)
    assert recorded[0] != made(tmp_path / "c")[0]
