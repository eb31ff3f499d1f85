"""Where sounds come from: the parametric models or a folder of recordings, one interface."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Sequence

import numpy as np
import scipy.signal
import soundfile

from lab.data.annotations import wrong_name
from lab.data.audio import audio_names, read_audio, resample
from lab.data.classes import in_order
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import PathLike, one_spelling
from lab.soundscapes.timeline import (
    CLIP_SECONDS,
    EXCERPT,
    PROFILES,
    SHORTEST_PAUSE,
    draw_lengths,
    profile_of,
)
from lab.soundscapes.waves import RATE, Draw, audible, fade, loudness, samples

from . import sounds

_SAME_OBJECT = 0.7  # share of repeated events that come from one dog, one alarm, one talker
_MARGIN = 0.5  # seconds that a filling sound has beyond each end of the clip
#: Seconds of a sound of a class that is not DESED's from which on an excerpt is taken.
LONGEST_SOUND = 6.0
_SUFFIXES = re.compile("(_nOn|_nOff)+$")
_HELD_OUT = 5  # one recording in so many is kept for validation


class Soundbank:
    """A source of event and background sounds at 16 kHz.

    Attributes:
        classes: of its events, in the order in which they are drawn from.
    """

    classes: Sequence[str] = CLASSES

    def events(
        self, label: str, seconds: Sequence[float], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Give sounds of a class, one for each wanted duration, (samples,), at any level.

        An infinite duration is one that fills a clip. What comes may be shorter or longer.
        """
        raise NotImplementedError

    def background(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Give a background of exactly ``seconds``, (samples,), at any level."""
        raise NotImplementedError


def _middle(wave: np.ndarray) -> np.ndarray:
    """Cut the start and the end of a filling sound, so that it is on from edge to edge."""
    return wave[samples(_MARGIN) : samples(_MARGIN + CLIP_SECONDS)]


class ParametricSounds(Soundbank):
    """The sounds of :mod:`lab.soundscapes.sounds`, from ``spread`` of each parameter's range."""

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def events(
        self, label: str, seconds: Sequence[float], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Make the sounds; see :meth:`Soundbank.events`."""
        waves = []
        thing = int(rng.integers(2**62))
        for wanted in seconds:
            if rng.random() > _SAME_OBJECT:
                thing = int(rng.integers(2**62))
            draw = Draw(rng, np.random.default_rng(thing), self.spread)
            if np.isinf(wanted):
                waves.append(_middle(sounds.EVENTS[label](CLIP_SECONDS + 2 * _MARGIN, draw)))
            else:
                waves.append(sounds.EVENTS[label](wanted, draw))
        return waves

    def background(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Make a room; see :meth:`Soundbank.background`."""
        return sounds.background(seconds, Draw(rng, spread=self.spread))


def load(path: PathLike) -> np.ndarray:
    """Read a recording as 16 kHz mono; several channels are averaged.

    Raises:
        InputError: when the file cannot be read, or holds no sound.
    """
    wave = read_audio(path, None)
    if np.max(np.abs(wave)) < 1e-5:
        raise InputError(f"{path} holds no sound; remove or replace it")
    return resample(wave, soundfile.info(str(path)).samplerate, RATE).astype(np.float32)


def split(wave: np.ndarray, pause: float, texture: bool = False) -> list[np.ndarray]:
    """Cut a recording into its events, where it is silent for longer than ``pause`` seconds.

    A 10 ms frame is silent when it lies less than 10 dB over the floor (the quietest tenth of the
    recording), this threshold being kept between 30 and 10 dB under the loudest frame. The floor
    of a texture is the sound itself, and its loudest frame a pop: its threshold lies 12 dB under
    the level that three quarters of the recording do not exceed.

    Example:
        >>> bark, silence = np.ones(3200, np.float32), np.zeros(8000, np.float32)
        >>> [len(part) for part in split(np.concatenate([bark, silence, bark]), 0.15)]
        [3200, 3200]
    """
    level = loudness(wave)
    peak = float(level.max())
    if texture:
        threshold = float(np.percentile(level, 75)) - 12
    else:
        threshold = float(np.clip(np.percentile(level, 10) + 10, peak - 30, peak - 10))
    active = np.flatnonzero(level >= threshold)
    cuts = np.flatnonzero(np.diff(active) > pause * 100)
    first = active[np.concatenate([[0], cuts + 1])]
    last = active[np.concatenate([cuts, [len(active) - 1]])]
    parts = [wave[a * 160 : (b + 1) * 160] for a, b in zip(first, last)]
    # What is shorter than 50 ms is a click; the loudest part is kept in any case.
    loudest = max(range(len(parts)), key=lambda i: float(np.sum(parts[i] ** 2)))
    return [part for i, part in enumerate(parts) if len(part) >= 800 or i == loudest]


def steady(wave: np.ndarray) -> bool:
    """Tell whether a sound may be looped: its level stays within some 4 dB (deviation)."""
    return bool(np.std(loudness(wave, 1600)) < 4.0)


def loop(wave: np.ndarray, n: int, overlap: float = 0.25) -> np.ndarray:
    """Repeat a texture up to ``n`` samples, with crossfades of ``overlap`` seconds."""
    size = min(samples(overlap), len(wave) // 4)
    ramp = np.sqrt(np.linspace(0, 1, size, dtype=np.float32))
    step = len(wave) - size
    result = np.zeros(n + len(wave), dtype=np.float32)
    for at in range(0, n, step):
        part = wave.copy()
        if at:
            part[:size] *= ramp
        part[-size:] *= ramp[::-1]
        result[at : at + len(part)] += part
    return result[:n]


@functools.lru_cache(maxsize=256)
def _parts(path: str, texture: bool) -> tuple[np.ndarray, ...]:
    return tuple(split(load(path), 0.5 if texture else SHORTEST_PAUSE, texture))


def _at_other_speed(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play faster or slower by up to a tenth, which moves the pitch with it."""
    down = int(rng.integers(18, 23))
    return wave if down == 20 else scipy.signal.resample_poly(wave, 20, down).astype(np.float32)


def _recordings(folder: Path) -> list[str]:
    return [str(folder / name) for name in audio_names(folder)]


class RecordedSounds(Soundbank):
    """Recordings in the layout of a Scaper or DESED soundbank.

    ``foreground/<Class>/*`` and ``background/<label>/*`` hold recordings of any rate, in the
    formats of :data:`lab.data.audio.FORMATS`; other files are ignored. DESED's folders for
    recordings without their onset or offset (``Blender_nOn_nOff``) belong to their class. Classes
    may have any names; those of DESED's ten are timed as in DESED, others see
    :data:`timeline.OTHER`.

    Args:
        folder: the soundbank.
        part: ``"all"`` recordings; ``"validation"``: every fifth one of each class and of the
            backgrounds; ``"train"``: the others. A class with fewer than five is not divided.

    Raises:
        InputError: when the layout is another, the name of a class cannot be used or is nearly
            one of DESED's, or a class has nothing.
    """

    def __init__(self, folder: PathLike, part: str = "all") -> None:
        self.folder = Path(folder)
        for name in ("foreground", "background"):
            if not (self.folder / name).is_dir():
                raise InputError(
                    f"soundbank {self.folder} has no folder {name}; give a folder that holds "
                    "foreground/<Class>/ and background/<label>/"
                )
        recordings: dict[str, list[str]] = {}
        for child in sorted((self.folder / "foreground").iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                label = one_spelling(_SUFFIXES.sub("", child.name))
                recordings.setdefault(label, []).extend(_recordings(child))
        misspelled = set(recordings).difference(in_order(recordings))
        for label, files in recordings.items():
            folder = self.folder / "foreground" / label
            problem = wrong_name(label)
            if problem:
                raise InputError(f"{folder}: {problem}; rename the folder")
            if label in misspelled:
                raise InputError(
                    f"{folder} is not named after a class; the classes are {', '.join(CLASSES)}"
                )
            if not files:
                raise InputError(f"{folder} has no recording; put an audio file into it")
        backgrounds = _recordings(self.folder / "background")
        for there, place in (
            (recordings, "foreground/<Class>"),
            (backgrounds, "background/<label>"),
        ):
            if not there:
                raise InputError(
                    f"soundbank {self.folder} has no recording; put audio files into {place}"
                )
        self.classes = sorted(recordings)
        self.files = {label: self._part(recordings[label], part) for label in self.classes}
        self.backgrounds = self._part(backgrounds, part)

    @staticmethod
    def _part(files: list[str], part: str) -> list[str]:
        if part == "all" or len(files) < _HELD_OUT:
            return files
        held_out = files[_HELD_OUT - 1 :: _HELD_OUT]
        return held_out if part == "validation" else [f for f in files if f not in held_out]

    def fingerprint(self) -> str:
        """Identify the bank by the names and sizes of its files."""
        digest = hashlib.sha256()
        for path in sorted(sum(self.files.values(), self.backgrounds)):
            name = Path(path).relative_to(self.folder).as_posix()
            digest.update(f"{name}\t{Path(path).stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def events(
        self, label: str, seconds: Sequence[float], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Take the sounds out of recordings; see :meth:`Soundbank.events`."""
        if profile_of(label).texture:
            return [self._texture(label, wanted, rng) for wanted in seconds]
        waves: list[np.ndarray] = []
        left: list[np.ndarray] = []
        for _ in seconds:
            if not left or rng.random() > _SAME_OBJECT:
                parts = _parts(str(rng.choice(self.files[label])), False)
                left = [parts[i] for i in rng.permutation(len(parts))]
            part = left.pop()
            if label not in PROFILES and len(part) > samples(LONGEST_SOUND):
                # Nobody knows whether it is a texture; whole it would fill clips, without edges.
                n = samples(draw_lengths(EXCERPT, rng, 1)[0])
                first = int(rng.integers(max(1, len(part) - n)))
                part = fade(part[first : first + n], 0.02, 0.05)
            waves.append(_at_other_speed(fade(part, 0.003, 0.01), rng))
        return waves

    def _texture(self, label: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        parts = _parts(str(rng.choice(self.files[label])), True)
        wave = max(parts, key=len)
        n = samples(CLIP_SECONDS + 2 * _MARGIN if np.isinf(seconds) else seconds)
        if len(wave) < n and steady(wave):
            wave = loop(wave, n)
        first = int(rng.integers(max(1, len(wave) - n)))
        wave = fade(_at_other_speed(wave[first : first + n], rng), 0.02, 0.05)
        return _middle(wave) if np.isinf(seconds) and len(wave) > 0.9 * n else wave

    def background(self, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """Take an excerpt of a background; see :meth:`Soundbank.background`."""
        n = samples(seconds)
        wave = _background(str(rng.choice(self.backgrounds)))
        if len(wave) < n:
            return loop(wave, n)
        first = int(rng.integers(len(wave) - n + 1))
        return wave[first : first + n].copy()


@functools.lru_cache(maxsize=32)
def _background(path: str) -> np.ndarray:
    wave = load(path)
    start, stop = audible(wave, 60.0)
    return wave[start:stop]
