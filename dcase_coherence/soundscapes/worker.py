"""Makes clips; one or more processes of it do the work of ``generate``.

A process that runs :func:`main` reads its task as JSON from standard input and answers with a line
for each clip. Fresh interpreters, rather than multiprocessing's, because those would run the
calling script again, and with it whatever that imports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np

from dcase_coherence.soundscapes import layout
from dcase_coherence.soundscapes.mixing import soundscape
from dcase_coherence.soundscapes.soundbank import ParametricSounds, RecordedSounds, Soundbank
from dcase_coherence.system.errors import InputError

DONE = "done"
TRAINING_SPREAD = 0.7  # training sounds lack the outer part of each parameter's range


def open_bank(
    subset: layout.Subset, soundbank: str | None, test_soundbank: str | None
) -> Soundbank:
    """Return the source of the sounds of a subset."""
    if soundbank is None:
        return ParametricSounds(1.0 if subset.part == "test" else TRAINING_SPREAD)
    if subset.part == "test":
        return RecordedSounds(test_soundbank or soundbank)
    return RecordedSounds(soundbank, subset.part)


def make_clips(
    out: Path,
    seed: int,
    clips: Sequence[tuple[str, int]],
    soundbank: str | None,
    test_soundbank: str | None,
) -> Iterator[None]:
    """Write clips, each given by subset and index, and yield after each.

    A clip depends on the seed, its subset and its index alone. Its annotation is written
    before its audio, so audio that is whole has its annotation.
    """
    banks: dict[str, Soundbank] = {}
    for name, index in clips:
        subset = layout.SUBSETS[name]
        if name not in banks:
            banks[name] = open_bank(subset, soundbank, test_soundbank)
        rng = np.random.default_rng(np.random.SeedSequence((seed, subset.number, index)))
        empty = bool(rng.random() < subset.empty_share)
        audio, events = soundscape(banks[name], rng, subset.conditions, empty)
        annotation = layout.annotation_bytes(events)
        layout.write(layout.annotation_path(out, subset, index), annotation)
        layout.write(out / subset.audio / subset.filename(index), layout.wav_bytes(audio))
        yield


def _answer(message: str) -> None:
    # All workers share a pipe; one call of write is what keeps their lines apart.
    os.write(1, (json.dumps(message) + "\n").encode())


def main() -> None:
    """Work through the task on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    task = json.load(sys.stdin)
    try:
        for _ in make_clips(Path(task.pop("out")), **task):
            _answer(DONE)
    except InputError as error:
        _answer(str(error))
    except BrokenPipeError:
        os._exit(1)  # the parent is gone; what is written is whole
