"""Makes a clip, in whichever process: it depends on its seed, subset and number alone."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.data.audio import wav_bytes
from lab.files import write_whole
from lab.soundscapes import layout
from lab.soundscapes.augmentation import ROOM, ROOM_SHARE, AugmentedSounds
from lab.soundscapes.mixing import IN_DOMAIN, soundscape
from lab.soundscapes.soundbank import ParametricSounds, RecordedSounds, Soundbank
from lab.soundscapes.waves import RATE

TRAINING_SPREAD = 0.7  # training sounds lack the outer part of each parameter's range

# Which subsets are recorded under conditions like those of the test clips.
IN_DOMAIN_SUBSETS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "weak": ("weak", "unlabelled"),
    "all": ("strong", "weak", "unlabelled", "validation"),
}


class Bank(NamedTuple):
    """A folder of recordings, and its content: a folder that changed is read again."""

    folder: Path
    fingerprint: str


class Banks(NamedTuple):
    """Where the recordings of the parts of a data set come from; parametric sounds without any."""

    train: Bank | None = None
    validation: Bank | None = None
    test: Bank | None = None


@functools.lru_cache(maxsize=None)
def open_bank(part: str, banks: Banks) -> Soundbank:
    """Return the source of the sounds of a part of the data set."""
    if banks.train is None:
        return ParametricSounds(1.0 if part == "test" else TRAINING_SPREAD)
    own = {"validation": banks.validation, "test": banks.test}.get(part)
    if own is not None:
        return RecordedSounds(own.folder)
    undivided = part == "test" or banks.validation is not None
    return RecordedSounds(banks.train.folder, "all" if undivided else part)


def make_clip(
    clip: tuple[str, int],
    out: Path,
    seed: int,
    banks: Banks,
    augment: bool,
    density: float,
    in_domain: str | None = None,
) -> None:
    """Write a clip, given by subset and number; the settings at the end are of training clips.

    Its annotation is written before its audio, so audio that is whole has its annotation.
    """
    name, index = clip
    subset = layout.SUBSETS[name]
    rng = np.random.default_rng(np.random.SeedSequence((seed, subset.number, index)))
    empty = bool(rng.random() < subset.empty_share)
    source, conditions = open_bank(subset.part, banks), subset.conditions
    training = subset.part == "train"
    if name in IN_DOMAIN_SUBSETS[in_domain]:
        conditions = IN_DOMAIN
    if training and augment:
        source = AugmentedSounds(source)
        if conditions.reverberation is None and rng.random() < ROOM_SHARE:
            conditions = conditions._replace(reverberation=ROOM)
    audio, events = soundscape(source, rng, conditions, empty, density if training else 1.0)
    write_whole(layout.annotation_path(out, subset, index), layout.annotation_bytes(events))
    write_whole(out / subset.audio / subset.filename(index), wav_bytes(audio, RATE))
