"""The data set's tables: events in seconds, tags of clips, durations of clips, all checked."""

from __future__ import annotations

import csv
import difflib
import os
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import Callable, Sequence

import numpy as np
import pandas as pd

from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import PathLike, one_spelling

EVENT = ["filename", "onset", "offset", "event_label"]


def read_strong_tsv(path: PathLike, classes: Sequence[str] | None = CLASSES) -> pd.DataFrame:
    """Read strongly labelled clips: one row an event.

    Args:
        path: tab-separated file with the columns filename, onset, offset, event_label and, where
            labels are soft, confidence (from 0 to 1; empty for 1). A row with a filename alone is
            a clip without events.
        classes: the labels that may occur; None for any that a configuration may name.

    Returns:
        The columns filename, onset, offset (seconds, float, NaN without event), event_label
        (NaN without event) and, where the file has it, confidence (NaN without event), in the
        file's order.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    table = _read_events(path, soft=True, instants=False)
    for line, label in table["event_label"].dropna().drop_duplicates().items():
        refuse_class(f"{path}, line {line}", label, classes)
    return table.reset_index(drop=True)


def read_reference(path: PathLike, classes: Sequence[str] | None = CLASSES) -> pd.DataFrame:
    """Read the events that detections are scored against: of soft labels those from 0.5 on.

    See :func:`read_strong_tsv` and :func:`hard_events`.
    """
    return hard_events(read_strong_tsv(path, classes))


def hard_events(table: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """Events of soft labels: those of a confidence from the threshold on, joined where they touch.

    MAESTRO's soft labels are segments of a second each: an event is a run of them. A clip that is
    left without events keeps a row with its name. A table without confidences is given back.

    Returns:
        The columns filename, onset, offset (seconds), event_label.
    """
    if "confidence" not in table:
        return table
    sure = table[table["confidence"] >= threshold]
    sure = sure.sort_values(["filename", "event_label", "onset"])
    # The first of its class in a clip has nothing to be joined to.
    begins = ~(sure["onset"] <= latest_offset(sure))
    events = sure.groupby(begins.cumsum().to_numpy()).agg(
        {"filename": "first", "onset": "first", "offset": "max", "event_label": "first"}
    )
    events = events.astype({"onset": float, "offset": float})
    clips = table[["filename"]].drop_duplicates()
    return clips.merge(events.sort_values(EVENT[1:]), on="filename", how="left")


def latest_offset(events: pd.DataFrame) -> pd.Series:
    """Latest offset of the rows before each that have its clip and class; NaN for the first.

    Not that of the row before alone: an event may lie inside a long one.
    """
    by = [events["filename"], events["event_label"]]
    return events["offset"].groupby(by).cummax().groupby(by).shift()


def read_events(path: PathLike, *, soft: bool = False) -> pd.DataFrame:
    """Read events of any classes, as any system may have written them.

    As :func:`read_strong_tsv`, but for the names of the classes and events of no length, which
    are taken as they are; a file that ends in `.csv` is separated by commas. A column confidence
    is read where `soft`.
    """
    return _read_events(path, soft).reset_index(drop=True)


def _read_events(path: PathLike, soft: bool, instants: bool = True) -> pd.DataFrame:
    """As :func:`read_events`, with the line of each row as its index."""
    table = _read(path, EVENT, ["confidence"] if soft else [])
    empty = table[EVENT[1:]].eq("")
    refuse(
        path,
        empty.any(axis=1) & ~empty.all(axis=1),
        lambda row: "onset, offset and event_label must be all given or all empty (nan is empty)",
    )
    table["event_label"] = table["event_label"].where(~empty["event_label"], np.nan)
    check_times(path, table, instants)
    if "confidence" in table:
        confidence = table["confidence"].where(table["confidence"].ne(""), "1")
        numbers = pd.to_numeric(confidence, errors="coerce").astype(float)
        refuse(
            path,
            ~numbers.between(0, 1),
            lambda row: f"confidence is {confidence[row]!r}; give a number from 0 to 1",
        )
        table["confidence"] = numbers.where(~empty["event_label"], np.nan)
    return table


def check_times(path: PathLike, table: pd.DataFrame, instants: bool) -> None:
    """Make onsets and offsets float seconds, in place; check that they are from 0 on, in order."""
    for column in ("onset", "offset"):
        table[column] = _seconds(path, table, column)
    refuse(
        path,
        table["onset"] < 0,
        lambda row: f"the onset {table['onset'][row]:g} is negative; give seconds from the start",
    )
    onset, offset = table["onset"], table["offset"]
    refuse(
        path,
        (onset > offset) | (onset.eq(offset) & (not instants)),
        lambda row: f"the onset {onset[row]:g} is not before the offset {offset[row]:g} (seconds)",
    )


def read_weak_tsv(path: PathLike, classes: Sequence[str] | None = CLASSES) -> pd.DataFrame:
    """Read weakly labelled clips, one row a clip, as :func:`read_strong_tsv` does strong ones.

    Returns:
        The columns filename, event_labels (str: separated by commas, empty without events).
    """
    table = _read_clips(path, "event_labels")
    for line, labels in table["event_labels"].items():
        for label in labels.split(",") if labels else []:
            refuse_class(f"{path}, line {line}", label, classes)
    return table.reset_index(drop=True)


def read_durations(path: PathLike) -> pd.DataFrame:
    """Read the durations of clips: the columns filename, duration (seconds), one row a clip.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    table = _read_clips(path, "duration")
    table["duration"] = _seconds(path, table, "duration")
    refuse(
        path,
        ~(table["duration"] > 0),
        lambda row: f"the duration {table['duration'][row]:g} is not above 0 seconds",
    )
    return table.reset_index(drop=True)


def read_filenames(path: PathLike) -> list[str]:
    """Read the names of clips from any table with a column `filename`, each name once.

    Raises:
        InputError: the file, the column or a name cannot be used.
    """
    return list(dict.fromkeys(_read(path, ["filename"])["filename"]))


def to_tsv(table: pd.DataFrame) -> str:
    """Write a table as the functions here read it: separated by tabs, without quotes."""
    texts = table.select_dtypes(exclude="number").columns
    written = table.assign(
        **{name: table[name].map(one_field, na_action="ignore") for name in texts}
    )
    return written.to_csv(sep="\t", index=False, quoting=csv.QUOTE_NONE, lineterminator="\n")


def one_field(text: str) -> str:
    r"""Write a text so that it stays one field of a table in UTF-8: a file's name may be anything.

    Example:
        >>> one_field("a\tb.wav"), one_field(os.fsdecode(b"\xe9.wav"))
        ('a\\tb.wav', '\\udce9.wav')
    """
    for character, word in (("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, word)
    return text.encode(errors="backslashreplace").decode()


def read_fields(path: PathLike, separator: str = "\t") -> list[tuple[int, list[str]]]:
    """Number and fields of the lines of a text file that are not blank.

    Without quoting: no stray quote swallows the lines after it.

    Raises:
        InputError: there is no such file, or it is not UTF-8 text.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist or is not a file; give the path of a tsv file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [(number, line.rstrip("\n")) for number, line in enumerate(file, 1)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    return [(number, line.split(separator)) for number, line in lines if line.strip(" ")]


def _read(path: PathLike, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read the columns as text, blanks and "nan" as ""; check that filenames stay inside.

    The index is the number of each row's line in the file.
    """
    separator, word = (",", "comma") if str(path).endswith(".csv") else ("\t", "tab")
    lines = read_fields(path, separator)
    names = lines[0][1] if lines else []
    missing = [column for column in columns if column not in names]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]!r}; its first line must name, separated by "
            f"{word}s: {', '.join(columns)} (it names: {', '.join(names[:8])})"
        )
    long = [line for line, fields in lines if len(fields) > len(names)]
    if long:
        raise InputError(
            f"{path}, line {long[0]}: there are more fields than the first line names; "
            f"separate the fields by single {word}s"
        )
    table = pd.DataFrame(
        [dict(zip(names, fields)) for _, fields in lines[1:]],
        columns=[*columns, *(column for column in optional if column in names)],
        index=[line for line, _ in lines[1:]],
        dtype=object,
    )
    # A short row has missing values.
    table = table.fillna("").apply(lambda column: column.str.strip())
    table = table.mask(table.apply(lambda column: column.str.lower()).eq("nan"), "")
    for column in table.columns.intersection(["event_label", "event_labels"]):
        table[column] = table[column].map(one_spelling)
    refuse(path, table["filename"].eq(""), lambda row: "the filename is empty")
    refuse(
        path,
        ~table["filename"].map(_is_inside),
        lambda row: (
            f"the filename {table['filename'][row]!r} leads out of the audio folder; "
            "give a name relative to it"
        ),
    )
    return table


def _read_clips(path: PathLike, column: str) -> pd.DataFrame:
    """As :func:`_read`, of a table with one row a clip."""
    table = _read(path, ["filename", column])
    refuse(
        path,
        table["filename"].duplicated(),
        lambda row: f"{table['filename'][row]} has a row already; give each clip one row",
    )
    return table


def _is_inside(name: str) -> bool:
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" not in name and not any(
        path.is_absolute() or path.drive or ".." in path.parts for path in paths
    )


def _seconds(path: PathLike, table: pd.DataFrame, column: str) -> pd.Series:
    """Convert a column of text to float seconds, NaN where it is empty."""
    numbers = pd.to_numeric(table[column].where(table[column].ne("")), errors="coerce")
    numbers = numbers.astype(float)
    refuse(
        path,
        table[column].ne("") & ~np.isfinite(numbers),
        lambda row: f"{column} is {table[column][row]!r}; give a number of seconds",
    )
    return numbers


def refuse(path: PathLike, bad: pd.Series, sentence: Callable[[int], str]) -> None:
    """Raise for the first bad row, by the number of its line in the file, which is its index."""
    if bad.any():
        line = bad.index[np.flatnonzero(bad)[0]]
        raise InputError(f"{path}, line {line}: {sentence(line)}")


#: Unicode's categories of control characters, halves of characters, and breaks of lines.
UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")


def wrong_name(label: str) -> str:
    """What is wrong with the name of a class, in words; "" where nothing is.

    Example:
        >>> wrong_name("Dog,Cat"), wrong_name("Dog")
        ("the class 'Dog,Cat' has a comma in it, which stands between the classes of a clip", '')
    """
    if "," in label:
        return f"the class {label!r} has a comma in it, which stands between the classes of a clip"
    if label != label.strip():
        return f"the class {label!r} has blanks at an end of its name"
    if any(unicodedata.category(character) in UNWRITABLE for character in label):
        return f"the class {label!r} has a tab, a line break or another control character in it"
    if label.lower() in ("", "nan"):
        return f"the class {label!r} would be read as no class"
    return ""


def refuse_class(place: str, label: str, classes: Sequence[str] | None) -> None:
    """Raise for a label that is not among the classes or, where these are None, no name of one."""
    if classes is None:
        problem = wrong_name(label)
    elif label in classes:
        return
    else:
        near = difflib.get_close_matches(label, classes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(classes)}"
        problem = f"the class {label!r} is unknown; {hint} (data.classes names them)"
    if problem:
        raise InputError(f"{place}: {problem}")
