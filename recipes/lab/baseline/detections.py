"""Detections of recordings, and their texts: tables, JSON, labels of Audacity and of Raven."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Callable, Iterable, NamedTuple, Sequence

import pandas as pd

from lab.data.annotations import one_field
from lab.data.audio import audio_names
from lab.errors import InputError
from lab.files import PathLike

COLUMNS = ["event_label", "onset", "offset", "confidence"]


class Detections(NamedTuple):
    """The events of one recording."""

    filename: str  # see :func:`recordings_by_name`
    duration: float  # in seconds
    highest: float  # frequency that the network hears, in Hz
    events: pd.DataFrame  # event_label, onset, offset (seconds), confidence (0 to 1)


def recordings_by_name(paths: Sequence[PathLike]) -> dict[str, Path]:
    """Recordings by their name: the path from the folder that all of them share.

    Args:
        paths: of recordings, and of folders that hold recordings.

    Raises:
        InputError: a folder holds no audio, or a recording comes twice.

    Example:
        >>> list(recordings_by_name(["site_1/0600.wav", "site_2/0600.wav"]))
        ['site_1/0600.wav', 'site_2/0600.wav']
    """
    folders = [path if os.path.isdir(path) else os.path.dirname(path) for path in paths]
    shared = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    recordings: dict[str, Path] = {}
    for path in map(Path, paths):
        files = [path / name for name in audio_names(path)] if path.is_dir() else [path]
        if not files:
            raise InputError(f"the folder {path} holds no audio; give another one, or recordings")
        for file in files:
            name = Path(os.path.relpath(os.path.abspath(file), shared)).as_posix()
            if name in recordings:
                raise InputError(f"{file} is given twice; give each recording once")
            recordings[name] = file
    return recordings


class Format(NamedTuple):
    """A text of the detections of several recordings: head, items with a separator, foot.

    With a suffix, of a file a recording, it is that of one.
    """

    item: Callable[[Detections], str]
    head: str = ""
    separator: str = ""
    foot: str = ""
    suffix: str = ""

    def text(self, detections: Iterable[Detections]) -> str:
        """The whole text."""
        return self.head + self.separator.join(map(self.item, detections)) + self.foot


def _tsv(one: Detections) -> str:
    rows = [
        f"{e.onset:.3f}\t{e.offset:.3f}\t{e.event_label}\t{e.confidence:.3f}"
        for e in one.events.itertuples()
    ]
    # As in DESED's tables a recording without events has a row with its name alone.
    return "".join(f"{one_field(one.filename)}\t{row}\n" for row in rows or ["\t\t\t"])


def _json(one: Detections) -> str:
    content = {
        "filename": one.filename,
        "duration": round(one.duration, 3),
        "events": one.events.round(3).to_dict("records"),
    }
    return textwrap.indent(json.dumps(content, indent=2), "  ")


def _audacity(one: Detections) -> str:
    rows = one.events.itertuples()
    return "".join(f"{e.onset:.6f}\t{e.offset:.6f}\t{e.event_label}\n" for e in rows)


def _raven(one: Detections) -> str:
    rows = enumerate(one.events.itertuples(), 1)
    return "".join(
        f"{n}\tSpectrogram 1\t1\t{e.onset:.6f}\t{e.offset:.6f}\t0\t{one.highest:g}"
        f"\t{e.event_label}\t{e.confidence:.3f}\n"
        for n, e in rows
    )


#: Columns that Raven asks for, and two more.
SELECTION = [
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)"),
    *("High Freq (Hz)", "Annotation", "Confidence"),
]
FORMATS = {
    "tsv": Format(_tsv, head="filename\tonset\toffset\tevent_label\tconfidence\n"),
    "json": Format(_json, head="[\n", separator=",\n", foot="\n]\n"),
    "audacity": Format(_audacity, suffix=".txt"),
    "raven": Format(_raven, head="\t".join(SELECTION) + "\n", suffix=".selections.txt"),
}
