"""The files of a data set: the baseline's folders, and writing that survives a kill."""

from __future__ import annotations

import io
import json
import os
import wave
from pathlib import Path
from typing import Iterable, NamedTuple

import numpy as np

from dcase_coherence.soundscapes.mixing import CLIP_SAMPLES, TEST, TRAINING, Conditions, Event
from dcase_coherence.soundscapes.timeline import CLIP_SECONDS
from dcase_coherence.soundscapes.waves import RATE
from dcase_coherence.system.errors import InputError

MANIFEST = "soundscapes.json"
ANNOTATIONS = ".annotations"  # of the clips that are done, until the tables are written


class Subset(NamedTuple):
    """A part of the data set, with its folders relative to the root."""

    name: str
    number: int  # seeds the clips, so it never changes
    audio: str
    table: str | None
    durations: str | None
    weak: bool
    conditions: Conditions
    part: str
    empty_share: float

    def filename(self, index: int) -> str:
        """Return the name of a clip, which no other subset has."""
        return f"{self.name}_{index:05d}.wav"


# The baseline cannot read a strong or weak clip without events, so only unlabelled ones have none.
SUBSETS = {
    subset.name: subset
    for subset in (
        Subset(
            "strong",
            0,
            "audio/train/synthetic21_train/soundscapes_16k",
            "metadata/train/synthetic21_train/soundscapes.tsv",
            None,
            False,
            TRAINING,
            "train",
            0.0,
        ),
        Subset(
            "weak",
            1,
            "audio/train/weak_16k",
            "metadata/train/weak.tsv",
            None,
            True,
            TRAINING,
            "train",
            0.0,
        ),
        Subset(
            "unlabelled",
            2,
            "audio/train/unlabel_in_domain_16k",
            None,
            None,
            False,
            TRAINING,
            "train",
            0.03,
        ),
        Subset(
            "validation",
            3,
            "audio/validation/synthetic21_validation/soundscapes_16k",
            "metadata/validation/synthetic21_validation/soundscapes.tsv",
            "metadata/validation/synthetic21_validation/durations.tsv",
            False,
            TRAINING,
            "validation",
            0.0,
        ),
        Subset(
            "test",
            4,
            "audio/validation/validation_16k",
            "metadata/validation/validation.tsv",
            "metadata/validation/validation_durations.tsv",
            False,
            TEST,
            "test",
            0.0,
        ),
    )
}


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except BaseException:
            partial.unlink()
            raise
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); make room or give another --out, and "
            "run the same command again: what is done is kept"
        ) from None


def partial_files(folder: Path) -> list[Path]:
    """List the unfinished files in a folder and below."""
    return sorted(folder.rglob(".*.partial"))


def wav_bytes(audio: np.ndarray) -> bytes:
    """Return 16-bit samples (samples,) at 16 kHz as the content of a mono wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(audio.astype("<i2").tobytes())
    return buffer.getvalue()


_EMPTY_WAV = wav_bytes(np.zeros(CLIP_SAMPLES))
WAV_SIZE = len(_EMPTY_WAV)  # bytes
_HEADER = _EMPTY_WAV[: WAV_SIZE - 2 * CLIP_SAMPLES]


def is_whole(path: Path) -> bool:
    """Tell whether a wav file has the header and the size that every clip has."""
    try:
        with open(path, "rb") as file:
            return (
                file.read(len(_HEADER)) == _HEADER and os.fstat(file.fileno()).st_size == WAV_SIZE
            )
    except OSError:
        return False


def annotation_path(out: Path, subset: Subset, index: int) -> Path:
    """Return where the events of a clip are kept until the tables are written."""
    return out / ANNOTATIONS / subset.name / f"{index:05d}.json"


def annotation_bytes(events: Iterable[Event]) -> bytes:
    """Return the events of a clip as JSON."""
    return json.dumps([list(event) for event in events]).encode()


def read_annotation(path: Path) -> list[Event]:
    """Read what :func:`annotation_bytes` wrote."""
    return [Event(*event) for event in json.loads(path.read_bytes())]


def table_bytes(subset: Subset, clips: list[list[Event]]) -> bytes:
    """Return the table of a subset: strong labels, or the classes of each clip."""
    lines = ["filename\tevent_labels" if subset.weak else "filename\tonset\toffset\tevent_label"]
    for index, events in enumerate(clips):
        name = subset.filename(index)
        if subset.weak:
            lines.append(f"{name}\t{','.join(sorted({event.event_label for event in events}))}")
        else:
            lines += [f"{name}\t{e.onset:.3f}\t{e.offset:.3f}\t{e.event_label}" for e in events]
    return ("\n".join(lines) + "\n").encode()


def durations_bytes(subset: Subset, count: int) -> bytes:
    """Return the table of the durations of the clips of a subset, in seconds."""
    lines = ["filename\tduration"]
    lines += [f"{subset.filename(index)}\t{CLIP_SECONDS:.3f}" for index in range(count)]
    return ("\n".join(lines) + "\n").encode()
