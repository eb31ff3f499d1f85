"""Other sounds out of the same recordings: pitch, duration and equaliser.

The ranges of pitch and duration are those of Scaper's examples (Salamon et al., WASPAA 2017), and
DESED's generator takes the same pitch. The equaliser is the FilterAugment of Nam et al. (ICASSP
2022) on waves: bands at random, gains that are joined by lines.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
import scipy.fft
import scipy.signal

from lab.soundscapes.soundbank import Soundbank
from lab.soundscapes.waves import RATE, samples

PITCH = (-3.0, 3.0)  # semitones
STRETCH = (0.8, 1.2)  # duration, relative to the recording's
GAIN = (-6.0, 6.0)  # dB
KNOTS = (3, 6)  # of the equaliser's curve, its ends included
ROOM = (0.05, 0.5)  # seconds of reverberation: from nearly dry to what test clips have
ROOM_SHARE = 0.5  # of the clips; the recordings have rooms of their own

_LOWEST, _HIGHEST = 50.0, RATE / 2  # Hz, the ends of the equaliser's curve


class Change(NamedTuple):
    """What is done to a sound."""

    semitones: float  # upwards
    stretch: float  # of the duration
    frequencies: tuple[float, ...]  # Hz, rising: the knots of the equaliser's curve
    gains: tuple[float, ...]  # dB, at these frequencies

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Change a sound, (samples,); the result has ``stretch`` times as many samples."""
        n = max(1, round(len(wave) * self.stretch))
        down = round(100 * 2 ** (self.semitones / 12))
        shifted = scipy.signal.resample_poly(wave, 100, down)
        return equalised(with_duration(shifted, n), self.frequencies, self.gains)


def draw_change(rng: np.random.Generator) -> Change:
    """Draw what is done to the sounds of one class in one clip."""
    semitones, stretch = rng.uniform(*PITCH), rng.uniform(*STRETCH)
    knots = int(rng.integers(KNOTS[0], KNOTS[1] + 1))
    inner = np.sort(np.exp(rng.uniform(np.log(_LOWEST), np.log(_HIGHEST), knots - 2)))
    gains = rng.uniform(*GAIN, knots)
    frequencies = (_LOWEST, *map(float, inner), _HIGHEST)
    return Change(float(semitones), float(stretch), frequencies, tuple(map(float, gains)))


def with_duration(wave: np.ndarray, n: int) -> np.ndarray:
    """Make a sound ``n`` samples long at the same pitch (WSOLA; Verhelst and Roelands, 1993).

    Segments of 40 ms overlap by half; each is taken where, within 10 ms of its place, the wave
    resembles best what followed the segment before. Attacks stay sharp, unlike in a phase vocoder;
    where a sound becomes longer, some come twice within 20 ms.
    """
    if len(wave) == n:
        return wave
    hop, reach = samples(0.02), samples(0.01)
    window = np.hanning(2 * hop + 1)[:-1]  # two of them, half of it apart, add up to 1
    steps = -(-n // hop) + 1
    # Segment k lies around sample k * hop of the result, and this one of the wave.
    places = np.round(np.arange(steps) * hop * (len(wave) / n)).astype(int)
    beyond = int(hop * (3 + len(wave) / n)) + 2 * reach
    padded = np.pad(wave, (hop + reach, beyond)).astype(np.float64)
    energy = np.concatenate([[0.0], np.cumsum(padded**2)])
    result = np.zeros((steps + 1) * hop)
    at = int(places[0]) + reach
    for k, place in enumerate(places):
        if k:
            follows = padded[at + hop : at + 2 * hop]
            near = padded[place : place + 2 * reach + hop]
            candidates = np.arange(place, place + 2 * reach + 1)
            power = np.maximum(energy[candidates + hop] - energy[candidates], 0)
            likeness = np.correlate(near, follows) / np.sqrt(power + 1e-9)
            at = int(candidates[np.argmax(likeness)])
        result[k * hop : (k + 2) * hop] += window * padded[at : at + 2 * hop]
    return result[hop : hop + n].astype(np.float32)


def equalised(wave: np.ndarray, frequencies: Sequence[float], gains: Sequence[float]) -> np.ndarray:
    """Filter a sound (samples,) by gains in dB at frequencies in Hz, without delay.

    Between the frequencies the gain follows lines over their logarithm; beyond them it stays.
    """
    size = scipy.fft.next_fast_len(len(wave) + samples(0.1), real=True)
    frequency = np.maximum(np.arange(size // 2 + 1) * (RATE / size), 1.0)
    gain = 10 ** (np.interp(np.log(frequency), np.log(frequencies), gains) / 20)
    spectrum = scipy.fft.rfft(wave, size) * gain.astype(np.float32)
    return scipy.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32)


class AugmentedSounds(Soundbank):
    """The sounds of another bank, changed at random.

    The sounds of a class in a clip are changed alike, as most of them come from one dog, one
    alarm, one talker. One that fills the clip keeps its duration. A background keeps pitch and
    duration.
    """

    def __init__(self, bank: Soundbank) -> None:
        self.bank = bank
        self.classes = bank.classes

    def events(
        self, label: str, seconds: Sequence[float], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Give changed sounds; see :meth:`Soundbank.events`."""
        waves = self.bank.events(label, seconds, rng)
        change = draw_change(rng)
        if np.isinf(seconds).any():
            change = change._replace(stretch=1.0)
        return [change(wave) for wave in waves]

    def background(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Give a background through an equaliser; see :meth:`Soundbank.background`."""
        wave = self.bank.background(seconds, rng)
        change = draw_change(rng)
        return equalised(wave, change.frequencies, change.gains)
