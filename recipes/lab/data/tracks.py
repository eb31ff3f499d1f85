"""Labels as other programs write them, a file a recording: Audacity's tracks, Raven's tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

import numpy as np
import pandas as pd

from lab.data.annotations import EVENT, check_times, read_fields, refuse, refuse_class
from lab.data.audio import file_names, stem
from lab.errors import InputError
from lab.files import PathLike, one_spelling

#: What a name of Raven's has after that of the recording.
RAVEN = re.compile(r"(\.Table\.\d+)?\.selections$", re.IGNORECASE)
TIMES = ["Begin Time (s)", "End Time (s)"]
#: Raven leaves the name of the column of labels to its user: the first of these counts.
LABELS = ["annotation", "species", "label", "class", "common name"]


def read_tracks(
    folder: PathLike, names: Sequence[str], classes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read the events of recordings from a file of labels each.

    Args:
        folder: for `a/street.wav` it holds `a/street.txt` or, as detect.py writes it,
            `a/street.wav.txt`, a label track of Audacity; or `a/street.Table.1.selections.txt` or
            `a/street.selections.txt`, a selection table of Raven. A file without labels is that
            of a clip without events.
        names: of the recordings.
        classes: the labels that may occur; None for any that a configuration may name.

    Returns:
        See :func:`lab.data.annotations.read_strong_tsv`.

    Raises:
        InputError: a recording has no file or several, or a line cannot be used.
    """
    files: dict[str, list[str]] = {}
    for file in file_names(folder):
        if file.lower().endswith(".txt"):
            files.setdefault(one_spelling(RAVEN.sub("", file[:-4])), []).append(file)
    labels = {
        name: [file for key in (stem(name), name) for file in files.get(one_spelling(key), [])]
        for name in names
    }
    missing = [name for name in names if not labels[name]]
    if missing:
        shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise InputError(
            f"{len(missing)} of {len(names)} recordings have no labels in {folder}: {shown}; "
            "give each a file of its name, an empty one where nothing is heard"
        )
    rows: list[tuple] = []
    for name, (file, *others) in labels.items():
        if others:
            raise InputError(f"{folder} holds {file} and {others[0]} for {name}; keep one of them")
        events = _read_track(Path(folder, file), classes)
        rows += [(name, *event) for event in events.to_numpy()] or [(name, *[np.nan] * 3)]
    return pd.DataFrame(rows, columns=EVENT)


def _read_track(path: Path, classes: Sequence[str] | None) -> pd.DataFrame:
    """Onset, offset (seconds) and event_label of the labels in a file."""
    lines = read_fields(path)
    raven = RAVEN.search(path.stem) or (lines and TIMES[0] in lines[0][1])
    rows = _of_raven(path, lines) if raven else _of_audacity(lines)
    table = pd.DataFrame(rows, columns=["line", *EVENT[1:]], dtype=object).set_index("line")
    refuse(
        path,
        table[["onset", "offset"]].eq("").any(axis=1),
        lambda line: (
            f"{' '.join(dict(lines)[line])!r} lacks an onset or offset; "
            "separate onset, offset and label by tabs"
        ),
    )
    check_times(path, table, instants=False)
    for line, label in table["event_label"].items():
        refuse_class(f"{path}, line {line}", label, classes)
    # Raven writes a selection once for each view, of the waveform and of the spectrogram.
    return table.drop_duplicates()


def _of_audacity(lines: list[tuple[int, list[str]]]) -> list[tuple]:
    rows = []
    for line, fields in lines:
        onset, offset, *label = [*map(str.strip, fields), ""][: max(len(fields), 2)]
        # A label with a range of frequencies has it in a line of its own, behind a backslash.
        if onset != "\\":
            rows.append((line, onset, offset, "\t".join(label)))
    return rows


def _of_raven(path: Path, lines: list[tuple[int, list[str]]]) -> list[tuple]:
    if not lines:
        return []
    columns = [column.strip() for column in lines[0][1]]
    lower = [column.lower() for column in columns]
    missing = [column for column in TIMES if column not in columns]
    label = next((column for column in LABELS if column in lower), None)
    if missing or label is None:
        wanted = repr(missing[0]) if missing else f"of labels, named {' or '.join(LABELS)}"
        raise InputError(f"{path} has no column {wanted} (it has: {', '.join(columns)})")
    places = [*(columns.index(column) for column in TIMES), lower.index(label)]
    width = len(columns)
    padded = ((line, [*map(str.strip, fields), *[""] * width]) for line, fields in lines[1:])
    return [(line, *(fields[place] for place in places)) for line, fields in padded]
