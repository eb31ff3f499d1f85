import numpy as np
import pytest

from lab.soundscapes.sounds import EVENTS, background
from lab.soundscapes.waves import RATE, Draw, audible, loudness


def make(label, seconds, seed, spread=1.0):
    return EVENTS[label](seconds, Draw(np.random.default_rng(seed), spread=spread))


@pytest.mark.parametrize("label", sorted(EVENTS))
@pytest.mark.parametrize("seconds", [0.25, 0.7, 2.3, 11.0])
def test_sounds_are_finite_and_about_as_long_as_asked(label, seconds):
    for seed in range(2):
        wave = make(label, seconds, seed)
        start, stop = audible(wave)
        assert np.isfinite(wave).all()
        assert 0.08 <= (stop - start) / RATE <= seconds + 0.25
        if seconds == 11.0:
            assert (stop - start) / RATE > 9.2


@pytest.mark.parametrize("label", sorted(EVENTS))
def test_no_pause_would_split_an_event_in_two(label):
    for seed in range(6):
        wave = make(label, 3.0, seed)
        start, stop = audible(wave)
        level = loudness(wave[start:stop])
        silent = "".join("s" if quiet else "." for quiet in level < level.max() - 30)
        assert max(map(len, silent.split("."))) <= 15


def long_term_spectra(count, spread):
    features, labels = [], []
    edges = np.geomspace(80, 8000, 17)
    for number, label in enumerate(sorted(EVENTS)):
        for seed in range(count):
            wave = make(label, 2.0, 1000 * number + seed + int(100 * spread), spread)
            start, stop = audible(wave)
            wave = wave[start:stop]
            frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
            power = np.abs(np.fft.rfft(wave)) ** 2
            bands = [
                power[(frequency >= a) & (frequency < b)].sum() for a, b in zip(edges, edges[1:])
            ]
            level = loudness(wave)
            features.append([*10 * np.log10(np.array(bands) / power.sum() + 1e-6), 3 * level.std()])
            labels.append(number)
    return np.array(features), np.array(labels)


def test_classes_differ_in_spectrum_and_level():
    """A nearest neighbour on 17 numbers a sound, which hear no timing, tells most of them apart."""
    known, names = long_term_spectra(12, 0.7)
    sounds, truth = long_term_spectra(6, 0.6)
    nearest = ((sounds[:, None] - known[None]) ** 2).sum(axis=2).argmin(axis=1)
    right = names[nearest] == truth
    assert right.mean() > 0.7
    assert all(right[truth == number].mean() > 0.2 for number in range(10))


def test_backgrounds_are_finite_and_of_the_length_asked():
    for seed in range(5):
        wave = background(10.0, Draw(np.random.default_rng(seed)))
        assert wave.shape == (160000,)
        assert np.isfinite(wave).all()
        assert wave.std() > 0
