import numpy as np
import pytest

from lab.soundscapes.augmentation import (
    GAIN,
    PITCH,
    STRETCH,
    AugmentedSounds,
    Change,
    draw_change,
    equalised,
    with_duration,
)
from lab.soundscapes.soundbank import ParametricSounds, Soundbank
from lab.soundscapes.waves import RATE, audible, fade, loudness, noise

FLAT = ((50.0, 8000.0), (0.0, 0.0))


def tone(frequency, seconds=1.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def pitch(wave):
    return np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4 * RATE))) / 4


@pytest.mark.parametrize("stretch", [0.67, 0.8, 1.2, 1.5])
def test_duration_changes_and_pitch_and_level_stay(stretch):
    wave = tone(441)
    changed = with_duration(wave, round(stretch * RATE))
    assert changed.shape == (round(stretch * RATE),)
    assert changed.dtype == np.float32
    assert pitch(changed) == pytest.approx(441, abs=2)
    assert loudness(changed)[2:-3] == pytest.approx(loudness(wave)[50], abs=0.5)


@pytest.mark.parametrize("stretch", [0.8, 1.2])
def test_attacks_move_with_the_duration_and_stay_sharp(stretch):
    rng = np.random.default_rng(0)
    wave = np.zeros(2 * RATE, dtype=np.float32)
    attacks = np.arange(2000, 30000, 4000)
    for at in attacks:
        wave[at : at + 800] = noise(800, rng) * np.exp(-np.arange(800) / 100)
    level = loudness(with_duration(wave, round(2 * RATE * stretch)), 80)
    level = np.maximum(level, level.max() - 40)
    rises = (np.flatnonzero(level[2:] - level[:-2] > 20) + 1) * 80
    distance = np.abs(rises[:, None] - stretch * attacks)
    assert distance.min(axis=0).max() <= 0.02 * RATE
    assert distance.min(axis=1).max() <= 0.02 * RATE


@pytest.mark.parametrize(("length", "n"), [(1, 1), (1, 3), (50, 40), (800, 8000), (8000, 800)])
def test_any_length_can_be_asked_for(length, n):
    wave = noise(length, np.random.default_rng(0))
    changed = with_duration(wave, n)
    assert changed.shape == (n,)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize(("semitones", "stretch"), [(-3.0, 1.2), (1.5, 1.0), (3, 0.8)])
def test_pitch_and_duration_change_on_their_own(semitones, stretch):
    changed = Change(semitones, stretch, *FLAT)(tone(500))
    assert len(changed) == pytest.approx(stretch * RATE, abs=1)
    assert pitch(changed) == pytest.approx(500 * 2 ** (semitones / 12), rel=0.01)


def test_the_equaliser_has_the_gains_asked_for_and_no_delay():
    frequencies, gains = (50.0, 1000.0, 8000.0), (-6.0, 6.0, 0.0)
    for hertz, gain in ((50, -6), (1000, 6), (1000 * 8**0.5, 3), (7990, 0)):
        wave = fade(tone(hertz, 2.0), 0.2, 0.2)
        changed = equalised(wave, frequencies, gains)
        middle = slice(RATE // 2, 3 * RATE // 2)
        ratio = np.sqrt(np.mean(changed[middle] ** 2) / np.mean(wave[middle] ** 2))
        assert 20 * np.log10(ratio) == pytest.approx(gain, abs=0.2)
        assert changed[middle] == pytest.approx(ratio * wave[middle], abs=0.01)


def test_changes_use_their_ranges_and_keep_to_them():
    rng = np.random.default_rng(0)
    changes = [draw_change(rng) for _ in range(500)]
    for values, (low, high) in (
        ([change.semitones for change in changes], PITCH),
        ([change.stretch for change in changes], STRETCH),
        ([gain for change in changes for gain in change.gains], GAIN),
    ):
        margin = 0.02 * (high - low)
        assert low <= min(values) < low + margin
        assert high - margin < max(values) <= high
    for change in changes:
        assert len(change.frequencies) == len(change.gains)
        assert list(change.frequencies) == sorted(change.frequencies)


class Tones(Soundbank):
    def events(self, label, seconds, rng):
        return [tone(500, min(wanted, 10.0)) for wanted in seconds]

    def background(self, seconds, rng):
        return noise(round(seconds * RATE), rng)


def test_sounds_of_a_class_are_changed_alike_and_clips_differ():
    bank = AugmentedSounds(Tones())
    pitches, durations = set(), set()
    for seed in range(5):
        waves = bank.events("Dog", [0.5, 1.0], np.random.default_rng(seed))
        assert pitch(waves[0]) == pytest.approx(pitch(waves[1]), abs=3)
        assert len(waves[0]) == pytest.approx(len(waves[1]) / 2, abs=1)
        pitches.add(round(pitch(waves[1])))
        durations.add(len(waves[1]))
    assert len(pitches) > 3
    assert len(durations) == 5


def test_a_sound_that_fills_the_clip_still_does():
    bank = AugmentedSounds(ParametricSounds(1.0))
    for label in ("Frying", "Vacuum_cleaner", "Electric_shaver_toothbrush"):
        (wave,) = bank.events(label, [float("inf")], np.random.default_rng(0))
        start, stop = audible(wave)
        assert stop - start > 9.5 * RATE


def test_a_background_keeps_its_length_and_gets_another_spectrum():
    plain = Tones().background(10.0, np.random.default_rng(0))
    changed = AugmentedSounds(Tones()).background(10.0, np.random.default_rng(0))
    assert changed.shape == plain.shape
    ratio = np.abs(np.fft.rfft(changed)) / np.abs(np.fft.rfft(plain))
    decibels = 20 * np.log10(np.median(ratio[1000:80000].reshape(79, -1), axis=1))
    assert np.ptp(decibels) > 2
    assert np.abs(decibels).max() < 6.5
