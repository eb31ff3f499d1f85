"""The sound of a recording, as pages and figures show it."""

from __future__ import annotations

import numpy as np
from scipy.signal import ShortTimeFFT

from lab.data.audio import open_audio, read_audio, resample
from lab.errors import InputError
from lab.files import PathLike

#: Sampling rate, in Hz: what networks for DESED hear.
RATE = 16000
#: Seconds of the longest recording that is shown, about 15 MB on a page.
LONGEST = 600.0
#: Most columns of the spectrogram, more than a screen has.
COLUMNS = 4000


def read_sound(path: PathLike) -> np.ndarray:
    """A recording mixed down, `(samples,)` at 16 kHz.

    Raises:
        InputError: the file cannot be read, or lasts longer than ten minutes.
    """
    with open_audio(path) as file:
        rate, seconds = file.samplerate, file.frames / file.samplerate
    if seconds > LONGEST:
        raise InputError(
            f"{path} lasts {seconds:.0f} s, and a page takes up to {LONGEST:.0f} s; give a folder "
            "for pictures, or a part of the recording"
        )
    return resample(read_audio(path, None), rate, RATE)


def spectrogram(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (s), frequencies (Hz) and levels `(frequencies, times)` over 60 dB, as 0 to 255."""
    hop = max(256, -(-len(sound) // COLUMNS))
    window = np.hanning(1024)
    transform = ShortTimeFFT(window, hop, RATE, fft_mode="onesided")
    padded = np.pad(sound, (0, max(len(window) - len(sound), 0)))
    power = np.abs(transform.stft(padded)[:512]) ** 2
    # Four bins a row.
    power = power.reshape(128, 4, -1).max(axis=1)
    decibels = 10 * np.log10(power + 1e-12)
    level = np.clip(255 * (decibels - decibels.max() + 60) / 60, 0, 255).astype(np.uint8)
    times = transform.t(len(padded))
    inside = (times >= 0) & (times <= len(padded) / RATE)
    return times[inside], (np.arange(128) + 0.5) * RATE / 256, level[:, inside]
