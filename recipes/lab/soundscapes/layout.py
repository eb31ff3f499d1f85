"""The files of a data set, in the baseline's folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Sequence

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


def rows_path(out: Path, subset: Subset, index: int) -> Path:
    """Return where the rows of a clip are kept until the table is written."""
    return out / ANNOTATIONS / subset.name / f"{index:05d}.tsv"


def header(subset: Subset) -> str:
    """Return the first line of the table of a subset."""
    columns = "event_labels" if subset.key == "weak" else "onset\toffset\tevent_label"
    return f"filename\t{columns}\n"


def rows(subset: Subset, index: int, events: Sequence[Event]) -> str:
    """Return the rows of a clip: its events or, of a weak one, its classes."""
    name = subset.filename(index)
    if subset.key == "weak":
        return f"{name}\t{','.join(sorted({event.event_label for event in events}))}\n"
    return "".join(f"{name}\t{e.onset:.3f}\t{e.offset:.3f}\t{e.event_label}\n" for e in events)


def durations(subset: Subset, count: int) -> str:
    """Return the table of the durations of the clips of a subset, in seconds."""
    clips = (f"{subset.filename(index)}\t{CLIP_SECONDS:.3f}\n" for index in range(count))
    return f"filename\tduration\n{''.join(clips)}"
