import shutil

import numpy as np
import pytest
import soundfile

from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.soundscapes.augmentation import AugmentedSounds
from lab.soundscapes.soundbank import (
    RecordedSounds,
    load,
    split,
    steady,
)
from lab.soundscapes.waves import RATE, audible, noise


def tone(frequency, seconds, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def bank(tmp_path):
    """One recording a class, two events in each; class k sounds at (k + 1) * 300 Hz."""
    silence = np.zeros(RATE // 2)
    for k, label in enumerate(CLASSES):
        folder = tmp_path / "bank" / "foreground" / label
        folder.mkdir(parents=True)
        wave = tone(300 * (k + 1), 0.8)
        soundfile.write(folder / "a.wav", np.concatenate([silence, wave, silence, wave]), RATE)
    folder = tmp_path / "bank" / "background" / "room"
    folder.mkdir(parents=True)
    soundfile.write(folder / "b.flac", 0.1 * noise(3 * RATE, np.random.default_rng(0)), RATE)
    return tmp_path / "bank"


def test_recordings_of_the_class_are_cut_into_their_events(bank):
    recorded = RecordedSounds(bank)
    for k, label in enumerate(CLASSES):
        for wave in recorded.events(label, [0.8, 0.8, 0.8], np.random.default_rng(k)):
            start, stop = audible(wave)
            assert 0.65 < len(wave) / RATE < 1.0
            assert stop - start > 0.95 * len(wave)
            pitch = np.argmax(np.abs(np.fft.rfft(wave, RATE)))
            assert 0.88 < pitch / (300 * (k + 1)) < 1.12


def test_a_steady_texture_is_looped_to_fill_a_clip(tmp_path, bank):
    wave = 0.3 * noise(4 * RATE, np.random.default_rng(0))
    soundfile.write(bank / "foreground" / "Frying" / "a.wav", np.clip(wave, -1, 1), RATE)
    (filling,) = RecordedSounds(bank).events("Frying", [float("inf")], np.random.default_rng(0))
    assert len(filling) / RATE > 9
    assert steady(filling)


def test_background_is_looped_or_cut_to_length(bank):
    recorded = RecordedSounds(bank)
    for seconds in (1.0, 10.0):
        wave = recorded.background(seconds, np.random.default_rng(0))
        assert len(wave) == seconds * RATE
        assert steady(wave)


def test_other_rates_and_channels_are_converted(tmp_path):
    wave = tone(1000, 1.0, 44100)
    soundfile.write(tmp_path / "a.ogg", np.stack([wave, wave], 1), 44100, format="OGG")
    loaded = load(tmp_path / "a.ogg")
    assert loaded.ndim == 1
    assert len(loaded) == pytest.approx(RATE, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(loaded, RATE))) == 1000


@pytest.mark.parametrize("samples", [None, 0, 1000])
def test_recordings_without_sound_are_named(tmp_path, samples):
    path = tmp_path / "a.wav"
    path.write_bytes(b"not audio")
    if samples is not None:
        soundfile.write(path, np.zeros(samples), RATE)
    with pytest.raises(InputError, match=r"a\.wav (cannot be read|holds no (sound|audio))"):
        load(path)


def test_split_separates_events_over_a_noise_floor():
    rng = np.random.default_rng(0)
    wave = 0.01 * noise(4 * RATE, rng)
    for at in (0.5, 1.5, 3.0):
        wave[round(at * RATE) : round((at + 0.4) * RATE)] += tone(800, 0.4).astype(np.float32)
    parts = split(wave, 0.15)
    assert [round(len(part) / RATE, 1) for part in parts] == [0.4, 0.4, 0.4]


def test_split_joins_events_that_are_close_and_leaves_out_clicks():
    wave = np.zeros(RATE, dtype=np.float32)
    wave[1600:4800] = wave[6400:8000] = 0.5  # 0.1 s apart
    wave[12000:12100] = 0.5
    assert [len(part) for part in split(wave, 0.15)] == [6400]


def test_split_keeps_a_texture_whole_in_spite_of_its_pops():
    rng = np.random.default_rng(0)
    wave = 0.01 * noise(4 * RATE, rng)
    wave[[9000, 30000]] = 1.0
    assert [len(part) for part in split(wave, 0.5, texture=True)] == [4 * RATE]


def test_validation_recordings_are_not_in_training(bank):
    folder = bank / "foreground" / "Dog"
    for i in range(11):
        soundfile.write(folder / f"d{i}.wav", tone(500, 0.5), RATE)
    parts = {part: RecordedSounds(bank, part).files for part in ("all", "train", "validation")}
    assert len(parts["validation"]["Dog"]) == 2
    assert not set(parts["validation"]["Dog"]) & set(parts["train"]["Dog"])
    assert set(parts["validation"]["Dog"] + parts["train"]["Dog"]) == set(parts["all"]["Dog"])
    assert parts["validation"]["Cat"] == parts["train"]["Cat"]  # one recording is not divided


def test_fingerprint_changes_with_the_files_and_not_with_the_place(bank):
    before = RecordedSounds(bank).fingerprint()
    moved = bank.rename(bank.with_name("moved"))
    assert RecordedSounds(moved).fingerprint() == before
    soundfile.write(moved / "foreground" / "Cat" / "new.wav", tone(500, 0.5), RATE)
    assert RecordedSounds(moved).fingerprint() != before


def test_a_folder_that_is_nearly_a_class_of_desed_s_is_refused(bank):
    (bank / "foreground" / "Dishes").rename(bank / "foreground" / "dishes")
    with pytest.raises(InputError, match=r"dishes is not named after a class.*Alarm_bell"):
        RecordedSounds(bank)


def test_classes_may_have_any_names(bank, own_classes):
    for name, own in zip(CLASSES, own_classes):
        (bank / "foreground" / name).rename(bank / "foreground" / f"{own}_nOn_nOff")
    for name in CLASSES[6:]:
        shutil.rmtree(bank / "foreground" / name)
    recorded = RecordedSounds(bank)
    assert recorded.classes == own_classes
    assert AugmentedSounds(recorded).classes == own_classes
    for k, label in enumerate(own_classes):
        for wave in recorded.events(label, [0.8, 0.8], np.random.default_rng(k)):
            assert 0.65 < len(wave) / RATE < 1.0
    (bank / "foreground" / "a,b").mkdir()
    with pytest.raises(InputError, match=r"a,b: the class 'a,b' has a comma .*; rename the folder"):
        RecordedSounds(bank)


def test_a_bank_of_some_of_desed_s_classes_has_those(bank):
    for name in CLASSES[2:]:
        shutil.rmtree(bank / "foreground" / name)
    assert RecordedSounds(bank).classes == list(CLASSES[:2])


def test_of_a_long_sound_of_another_class_an_excerpt_is_taken(bank):
    wave = 0.3 * noise(30 * RATE, np.random.default_rng(0))
    (bank / "foreground" / "engine").mkdir()
    soundfile.write(bank / "foreground" / "engine" / "a.wav", np.clip(wave, -1, 1), RATE)
    recorded = RecordedSounds(bank)
    rng = np.random.default_rng(0)
    lengths = [len(w) / RATE for w in recorded.events("engine", [1.0] * 40, rng)]
    assert max(lengths) < 11
    assert 3 < np.median(lengths) < 5.5


@pytest.mark.parametrize(
    ("remove", "complaint"),
    [
        ("foreground/Cat/a.wav", "Cat has no recording"),
        ("foreground/*", r"bank has no recording; .* foreground/<Class>"),
        ("background/room/b.flac", r"bank has no recording; .* background/<label>"),
        ("background", "bank has no folder background"),
    ],
)
def test_missing_recordings_and_folders_are_named(bank, remove, complaint):
    for path in bank.glob(remove):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(InputError, match=complaint):
        RecordedSounds(bank)


def test_real_recordings_give_sounds_of_every_class(shared):
    folder = shared / "soundbank" / "train"
    if not folder.is_dir():
        pytest.skip("needs the recordings in ../shared/soundbank/train")
    recorded = RecordedSounds(folder)
    for k, label in enumerate(CLASSES):
        waves = recorded.events(label, [1.0, 3.0], np.random.default_rng(k))
        assert len(waves) == 2
        for wave in waves:
            assert np.isfinite(wave).all()
            assert 0.03 < len(wave) / RATE < 11.5
