"""One clip: sounds laid on a timeline over a background, in a room, through a channel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.signal

from lab.soundscapes.soundbank import Soundbank
from lab.soundscapes.timeline import (
    CLIP_SECONDS,
    SHORTEST_EVENT,
    draw_classes,
    draw_durations,
    lay_out,
)
from lab.soundscapes.waves import RATE, audible, loudness, noise, samples

CLIP_SAMPLES = samples(CLIP_SECONDS)
_MASKED = 10.0  # dB under the background at which the fringe of an event is no longer heard


class Event(NamedTuple):
    """A labelled event: ``onset`` and ``offset`` in seconds."""

    onset: float
    offset: float
    event_label: str


class Conditions(NamedTuple):
    """Ranges of how a clip is recorded; None for a dry clip, and for no limit of the band."""

    snr: tuple[float, float]  # dB, of events over the background
    level: tuple[float, float]  # dB relative to full scale, of the background
    reverberation: tuple[float, float] | None = None  # seconds, to -60 dB
    low_cut: tuple[float, float] | None = None  # Hz, of the channel
    high_cut: tuple[float, float] | None = None


TRAINING = Conditions(snr=(6, 30), level=(-52, -40))
TEST = Conditions(
    snr=(6, 25),
    level=(-56, -34),
    reverberation=(0.15, 0.5),
    low_cut=(40, 160),
    high_cut=(5500, 7800),
)
# Of clips that are to be like the test clips: the middle of the test's ranges, as training sounds
# have the middle of theirs.
IN_DOMAIN = TEST._replace(
    level=(-53, -37),
    reverberation=(0.2, 0.45),
    low_cut=(58, 142),
    high_cut=(5850, 7450),
)


def room_response(rng: np.random.Generator, reverberation: float) -> np.ndarray:
    """Make the impulse response of a room: the direct sound and a darkening tail.

    The tail decays by 60 dB in ``reverberation`` seconds.
    """
    n = samples(reverberation)
    tail = noise(n, rng, 100, rng.uniform(2500, 6000), -1.5)
    tail *= np.exp(-np.log(1000) * np.arange(n) / n)
    tail[: samples(0.002)] = 0
    tail *= 10 ** (rng.uniform(-10, -2) / 20) / (np.sqrt(np.sum(tail**2)) + 1e-12)
    tail[0] = 1.0
    return tail.astype(np.float32)


def _in_room(wave: np.ndarray, response: np.ndarray | None) -> np.ndarray:
    return wave if response is None else scipy.signal.fftconvolve(wave, response)


def _through_channel(
    wave: np.ndarray, rng: np.random.Generator, conditions: Conditions
) -> np.ndarray:
    for limits, kind in ((conditions.low_cut, "highpass"), (conditions.high_cut, "lowpass")):
        if limits is not None:
            filtering = scipy.signal.butter(2, rng.uniform(*limits), kind, fs=RATE, output="sos")
            wave = scipy.signal.sosfilt(filtering, wave)
    return wave


def soundscape(
    bank: Soundbank,
    rng: np.random.Generator,
    conditions: Conditions,
    empty: bool = False,
    density: float = 1.0,
) -> tuple[np.ndarray, list[Event]]:
    """Make a strongly labelled clip.

    The level of an event is the RMS of its audible part over that of the background. Its label
    holds every 10 ms frame that is at most 30 dB under the event's loudest one and at most
    10 dB under the background, and lasts at least 0.25 s, as the labels of DESED do. Events of
    one class never overlap.

    Args:
        bank: where sounds come from.
        rng: source of randomness; the clip depends on nothing else.
        conditions: levels, room and channel.
        empty: leave out the events.
        density: factor on the number of classes; at least 1.

    Returns:
        16-bit samples (samples,) and the events, sorted by onset.
    """
    mix = bank.background(CLIP_SECONDS, rng)
    mix = mix / (np.sqrt(np.mean(mix**2)) + 1e-9)
    response = None
    if conditions.reverberation is not None:
        response = room_response(rng, rng.uniform(*conditions.reverberation))
    events: list[Event] = []
    for label in [] if empty else draw_classes(rng, density, bank.classes):
        waves = bank.events(label, draw_durations(label, rng), rng)
        events += _add(mix, label, [_in_room(w, response) for w in waves], rng, conditions)
    mix = _through_channel(mix, rng, conditions)
    mix = mix * 10 ** (rng.uniform(*conditions.level) / 20)
    mix = mix * min(1.0, 0.95 / float(np.max(np.abs(mix))))
    return np.round(mix * 32767).astype("<i2"), sorted(events)


def _add(
    mix: np.ndarray,
    label: str,
    waves: list[np.ndarray],
    rng: np.random.Generator,
    conditions: Conditions,
) -> list[Event]:
    """Lay the sounds of one class on a background of RMS 1, in place."""
    snr = rng.uniform(*conditions.snr)
    sounds, spans = [], []
    for wave in waves:
        start, stop = audible(wave)
        level = np.clip(snr + rng.normal(0, 1.5), *conditions.snr)
        wave = wave * (10 ** (level / 20) / (np.sqrt(np.mean(wave[start:stop] ** 2)) + 1e-12))
        over_background = float(loudness(wave).max())
        sounds.append(wave)
        spans.append(audible(wave, min(30.0, over_background + _MASKED)))
    lengths = [max((stop - start) / RATE, SHORTEST_EVENT) for start, stop in spans]
    onsets = lay_out(label, lengths, rng)
    events: list[Event] = []
    for wave, (start, _), length, onset in zip(sounds, spans, lengths, onsets):
        at = round(onset * RATE) - start
        inside = slice(max(0, -at), min(len(wave), CLIP_SAMPLES - at))
        mix[at + inside.start : at + inside.stop] += wave[inside]
        begin, end = max(0.0, onset), min(CLIP_SECONDS, onset + length)
        events.append(Event(round(begin, 3), round(end, 3), label))
    return events
