"""Makes a clip, in whichever process: it depends on its seed, subset and number alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcase_coherence.soundscapes import layout
from dcase_coherence.soundscapes.mixing import soundscape
from dcase_coherence.soundscapes.soundbank import ParametricSounds, RecordedSounds, Soundbank
from dcase_coherence.system.files import write_whole

TRAINING_SPREAD = 0.7  # training sounds lack the outer part of each parameter's range


class Bank(NamedTuple):
    """A folder of recordings, and its content: a folder that changed is read again."""

    folder: Path
    fingerprint: str


@functools.lru_cache(maxsize=None)
def open_bank(part: str, bank: Bank | None, test_bank: Bank | None) -> Soundbank:
    """Return the source of the sounds of a part of the data set; parametric ones without a bank."""
    if bank is None:
        return ParametricSounds(1.0 if part == "test" else TRAINING_SPREAD)
    if part == "test":
        return RecordedSounds((test_bank or bank).folder)
    return RecordedSounds(bank.folder, part)


def make_clip(
    clip: tuple[str, int], out: Path, seed: int, bank: Bank | None, test_bank: Bank | None
) -> None:
    """Write a clip, given by subset and number.

    Its annotation is written before its audio, so audio that is whole has its annotation.
    """
    name, index = clip
    subset = layout.SUBSETS[name]
    rng = np.random.default_rng(np.random.SeedSequence((seed, subset.number, index)))
    empty = bool(rng.random() < subset.empty_share)
    source = open_bank(subset.part, bank, test_bank)
    audio, events = soundscape(source, rng, subset.conditions, empty)
    write_whole(layout.annotation_path(out, subset, index), layout.annotation_bytes(events))
    write_whole(out / subset.audio / subset.filename(index), layout.wav_bytes(audio))
