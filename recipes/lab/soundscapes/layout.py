"""The files of a data set, in the baseline's folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable, NamedTuple

from lab.data.desed import official_layout
from lab.soundscapes.mixing import TEST, TRAINING, Conditions, Event
from lab.soundscapes.timeline import CLIP_SECONDS

LAYOUT = official_layout("")  # relative to the root
MANIFEST = "soundscapes.json"
ANNOTATIONS = ".annotations"  # of the clips that are done, until the tables are written


class Subset(NamedTuple):
    """A part of the data set, with its folders relative to the root."""

    name: str
    number: int  # seeds the clips, so it never changes
    key: str  # beginning of its keys in the `data:` section
    conditions: Conditions
    part: str
    empty_share: float = 0.0

    @property
    def audio(self) -> str:
        """Folder of the clips."""
        return LAYOUT[f"{self.key}_folder"]

    @property
    def table(self) -> str | None:
        """Table of the labels, where it has any."""
        return LAYOUT.get(f"{self.key}_tsv")

    @property
    def durations(self) -> str | None:
        """Table of the durations, where the layout has one."""
        return LAYOUT.get(f"{self.key}_dur")

    def filename(self, index: int) -> str:
        """Return the name of a clip, which no other subset has."""
        return f"{self.name}_{index:05d}.wav"


# The baseline cannot read a strong or weak clip without events, so only unlabelled ones have none.
SUBSETS = {
    subset.name: subset
    for subset in (
        Subset("strong", 0, "synth", TRAINING, "train"),
        Subset("weak", 1, "weak", TRAINING, "train"),
        Subset("unlabelled", 2, "unlabeled", TRAINING, "train", empty_share=0.03),
        Subset("validation", 3, "synth_val", TRAINING, "validation"),
        Subset("test", 4, "test", TEST, "test"),
    )
}


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
    weak = subset.key == "weak"
    lines = ["filename\tevent_labels" if weak else "filename\tonset\toffset\tevent_label"]
    for index, events in enumerate(clips):
        name = subset.filename(index)
        if weak:
            lines.append(f"{name}\t{','.join(sorted({event.event_label for event in events}))}")
        else:
            lines += [f"{name}\t{e.onset:.3f}\t{e.offset:.3f}\t{e.event_label}" for e in events]
    return ("\n".join(lines) + "\n").encode()


def durations_bytes(subset: Subset, count: int) -> bytes:
    """Return the table of the durations of the clips of a subset, in seconds."""
    lines = ["filename\tduration"]
    lines += [f"{subset.filename(index)}\t{CLIP_SECONDS:.3f}" for index in range(count)]
    return ("\n".join(lines) + "\n").encode()
