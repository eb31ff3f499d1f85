"""Makes a clip, in whichever process: it depends on its seed, subset and number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import numpy as np

from lab.data.audio import wav_bytes
from lab.files import write_whole
from lab.soundscapes import layout
from lab.soundscapes.augmentation import ROOM, ROOM_SHARE, AugmentedSounds
from lab.soundscapes.mixing import IN_DOMAIN, soundscape
from lab.soundscapes.soundbank import Soundbank
from lab.soundscapes.waves import RATE

# Which subsets are recorded under conditions like those of the test clips.
IN_DOMAIN_SUBSETS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "weak": ("weak", "unlabelled"),
    "all": ("strong", "weak", "unlabelled", "validation"),
}


def make_clip(
    clip: tuple[str, int],
    out: Path,
    seed: int,
    sources: Mapping[str, Soundbank],
    augment: bool,
    density: float,
    in_domain: str | None = None,
) -> None:
    """Write a clip, given by subset and number; the settings at the end are of training clips.

    Its rows of the table are written before its audio, so audio that is whole has its rows.
    """
    name, index = clip
    subset = layout.SUBSETS[name]
    rng = np.random.default_rng(np.random.SeedSequence((seed, subset.number, index)))
    empty = bool(rng.random() < subset.empty_share)
    source, conditions = sources[subset.part], subset.conditions
    training = subset.part == "train"
    if name in IN_DOMAIN_SUBSETS[in_domain]:
        conditions = IN_DOMAIN
    if training and augment:
        source = AugmentedSounds(source)
        if conditions.reverberation is None and rng.random() < ROOM_SHARE:
            conditions = conditions._replace(reverberation=ROOM)
    audio, events = soundscape(source, rng, conditions, empty, density if training else 1.0)
    if subset.table is not None:
        write_whole(layout.rows_path(out, subset, index), layout.rows(subset, index, events))
    write_whole(out / subset.audio / subset.filename(index), wav_bytes(audio, RATE))
