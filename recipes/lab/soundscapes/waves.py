"""The few signals from which the parametric sounds are made, at 16 kHz, float32."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.signal

RATE = 16000  # Hz, of everything that is generated

_TABLE = 4096  # samples of one period of a wavetable, a power of two


class Draw:
    """Random parameters of a sound, from the whole or only the middle of their range.

    Training sounds take the middle of each range (``spread`` of it, in (0, 1]) and test sounds the
    whole, so that a test set holds sounds that no training set has. Two draws with equal
    ``parameters`` (``rng`` when None) make two utterances of one object: the same dog barks twice.

    Example:
        >>> draw = Draw(np.random.default_rng(0), spread=0.5)
        >>> 12.5 <= draw(10, 20) <= 17.5
        True
    """

    def __init__(
        self,
        rng: np.random.Generator,
        parameters: np.random.Generator | None = None,
        spread: float = 1.0,
    ) -> None:
        self.rng = rng
        self.parameters = rng if parameters is None else parameters
        self.spread = spread

    def __call__(self, low: float, high: float) -> float:
        """Draw uniformly between ``low`` and ``high``."""
        return low + (high - low) * (0.5 + self.spread * (self.parameters.random() - 0.5))

    def log(self, low: float, high: float) -> float:
        """Draw log-uniformly between ``low`` and ``high``."""
        return float(np.exp(self(np.log(low), np.log(high))))

    def choice(self, options: int) -> int:
        """Draw one of ``options`` kinds, 0 to ``options - 1``."""
        return int(self.parameters.integers(options))


def samples(seconds: float) -> int:
    """Return the number of samples of a duration in seconds, at least one."""
    return max(1, round(seconds * RATE))


def noise(n: int, rng: np.random.Generator, low=20.0, high=8000.0, slope=0.0) -> np.ndarray:
    """Make ``n`` samples of noise with an RMS of 1, in a band from ``low`` to ``high`` Hz.

    ``slope`` is its tilt in dB per octave (white 0, pink -3, brown -6).
    """
    size = scipy.fft.next_fast_len(n, real=True)
    spectrum = rng.standard_normal(2 * (size // 2 + 1), dtype=np.float32).view(np.complex64)
    frequency = np.arange(1, len(spectrum) + 1, dtype=np.float32) * np.float32(RATE / size)
    below = np.square(np.float32(low) / frequency)
    above = np.square(frequency / np.float32(high))
    gain = 1 / np.sqrt((1 + below * below * below) * (1 + above * above * above))
    if slope:
        gain *= np.exp2(np.log2(frequency / 1000) * np.float32(slope / 6.02))
    spectrum[1:] *= gain[:-1]
    spectrum[0] = 0
    wave = scipy.fft.irfft(spectrum, size)[:n]
    return wave / (np.sqrt(np.mean(np.square(wave))) + np.float32(1e-12))


def wander(n: int, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Make ``n`` samples that drift at random within [-1, 1], about ``rate`` turns a second."""
    knots = max(2, int(n * rate / RATE) + 2)
    return np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.uniform(-1, 1, knots))


def periodic(f0: np.ndarray, amplitudes, rng: np.random.Generator) -> np.ndarray:
    """Make a harmonic series with a moving fundamental and an RMS of about 1.

    One period is tabulated and read at the running phase, so the cost does not grow with the
    number of harmonics. Harmonics that would alias are left out.

    Args:
        f0: fundamental frequency in Hz at each sample, (samples,).
        amplitudes: of the harmonics 1, 2, ..., (harmonics,).
    """
    highest = max(1, int(0.48 * RATE / float(np.max(f0))))
    amplitudes = np.asarray(amplitudes, dtype=float)[:highest]
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=complex)
    spectrum[1 : 1 + len(amplitudes)] = amplitudes * np.exp(
        2j * np.pi * rng.random(len(amplitudes))
    )
    table = np.fft.irfft(spectrum)
    table = (table / (table.std() + 1e-12)).astype(np.float32)
    phase = np.cumsum(f0) / RATE + rng.random()
    # A power of two, so that the running sample index wraps around by its low bits.
    return table[(phase * _TABLE).astype(np.int64) & (_TABLE - 1)]


def damped(n: int, frequencies, decays, amplitudes) -> np.ndarray:
    """Add up sines that die away: frequencies in Hz, decay times (to 1/e) in seconds."""
    time = np.arange(n, dtype=np.float32)[:, None] / RATE
    frequencies, decays = np.asarray(frequencies, np.float32), np.asarray(decays, np.float32)
    partials = np.exp(-time / decays) * np.sin(2 * np.pi * frequencies * time)
    return partials @ np.asarray(amplitudes, np.float32)


def formants(wave: np.ndarray, frequencies: np.ndarray, bandwidths, gains) -> np.ndarray:
    """Filter by resonances that move, in the short-time Fourier domain (32 ms, 8 ms steps).

    Their frequencies in Hz, (points, resonances), are interpolated over the duration of the sound;
    bandwidths in Hz and linear gains are (resonances,).
    """
    n = len(wave)
    frequency, _, spectrum = scipy.signal.stft(wave, RATE, nperseg=512, noverlap=384)
    at = np.linspace(0, len(frequencies) - 1, spectrum.shape[1])
    gain = np.full(spectrum.shape, 0.01, dtype=np.float32)
    for column, bandwidth, strength in zip(frequencies.T, bandwidths, gains):
        centre = np.interp(at, np.arange(len(column)), column)
        gain += strength / (1 + ((frequency[:, None] - centre) / bandwidth) ** 2)
    _, shaped = scipy.signal.istft(spectrum * gain, RATE, nperseg=512, noverlap=384)
    shaped = np.pad(shaped[:n], (0, max(0, n - len(shaped))))
    return shaped.astype(np.float32)


def fade(wave: np.ndarray, attack: float, release: float) -> np.ndarray:
    """Fade the start and the end with half cosines of the given seconds."""
    wave = np.array(wave, dtype=np.float32)
    for seconds, part in ((attack, slice(None)), (release, slice(None, None, -1))):
        ramp = min(samples(seconds), len(wave))
        view = wave[part]
        view[:ramp] *= 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 0.5) / ramp)
    return wave


def loudness(wave: np.ndarray, frame: int = 160) -> np.ndarray:
    """Return the level in dB of consecutive frames of ``frame`` samples (10 ms)."""
    frames = -(-len(wave) // frame)
    padded = np.zeros(frames * frame, dtype=np.float32)
    padded[: len(wave)] = wave
    return 10 * np.log10(np.mean(padded.reshape(frames, frame) ** 2, axis=1) + 1e-12)


def audible(wave: np.ndarray, below_peak: float = 30.0) -> tuple[int, int]:
    """Return the first sample, and the one after the last, of the audible part of a sound.

    A 10 ms frame is audible when it is at most ``below_peak`` dB under the loudest.

    Example:
        >>> wave = np.zeros(16000, dtype=np.float32)
        >>> wave[3200:4800] = 1
        >>> audible(wave)
        (3200, 4800)
    """
    level = loudness(wave)
    frames = np.flatnonzero(level >= level.max() - below_peak)
    return int(frames[0]) * 160, min(len(wave), (int(frames[-1]) + 1) * 160)
