"""The data set's tables: events in seconds, tags of clips, durations of clips, all checked."""

from __future__ import annotations

import csv
import difflib
import os
from pathlib import PurePosixPath, PureWindowsPath
from typing import Sequence

import numpy as np
import pandas as pd

from dcase_coherence.data.desed import CLASSES
from dcase_coherence.system.errors import InputError
from dcase_coherence.system.files import PathLike


def read_strong_tsv(path: PathLike, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Read strongly labelled clips: one row an event.

    Args:
        path: tab-separated file with the columns filename, onset, offset, event_label. A row
            with a filename alone is a clip without events.
        classes: the labels that may occur.

    Returns:
        The columns filename, onset, offset (seconds, float, NaN without event), event_label
        (NaN without event), in the file's order.

    Raises:
        InputError: the file, a column or a row cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open(f"{folder}/soundscapes.tsv", "w") as file:
        ...         print("filename", "onset", "offset", "event_label", sep="\\t", file=file)
        ...         print("a.wav", 0.5, 2, "Dog", sep="\\t", file=file)
        ...     read_strong_tsv(file.name)
          filename  onset  offset event_label
        0    a.wav    0.5     2.0         Dog
    """
    table = _read_events(path)
    has_event = table["event_label"].notna()
    _refuse_order(path, has_event & (table["onset"] == table["offset"]), table)
    unknown = has_event & ~table["event_label"].isin(list(classes))
    _refuse(path, unknown, lambda row: _unknown_class(table["event_label"][row], classes))
    return table.reset_index(drop=True)


def read_events(path: PathLike) -> pd.DataFrame:
    """Read events of any classes, as any system may have written them.

    As :func:`read_strong_tsv`, but for the names of the classes and events of no length, which
    are taken as they are; a file that ends in `.csv` is separated by commas.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    return _read_events(path).reset_index(drop=True)


def _read_events(path: PathLike) -> pd.DataFrame:
    """As :func:`read_events`, with the line of each row as its index."""
    table = _read(path, ("filename", "onset", "offset", "event_label"))
    empty = table[["onset", "offset", "event_label"]].eq("")
    partly = empty.any(axis=1) & ~empty.all(axis=1)
    _refuse(
        path, partly, lambda row: "onset, offset and event_label must be all given or all empty"
    )
    for column in ("onset", "offset"):
        table[column] = _seconds(path, table, column)
    has_event = ~empty["event_label"]
    _refuse(
        path,
        has_event & (table["onset"] < 0),
        lambda row: f"the onset {table['onset'][row]:g} is negative; give seconds from the start",
    )
    _refuse_order(path, has_event & (table["onset"] > table["offset"]), table)
    table["event_label"] = table["event_label"].where(has_event, np.nan)
    return table


def read_weak_tsv(path: PathLike, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Read weakly labelled clips: one row a clip.

    Args:
        path: tab-separated file with the columns filename, event_labels (separated by commas;
            empty for a clip without events).
        classes: the labels that may occur.

    Returns:
        The columns filename, event_labels (str), in the file's order.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    table = _read(path, ("filename", "event_labels"))
    _refuse(
        path,
        table["filename"].duplicated(),
        lambda row: f"{table['filename'][row]} has a row already; give each clip one row",
    )
    for line, labels in table["event_labels"].items():
        for label in labels.split(",") if labels else []:
            if label not in classes:
                raise InputError(f"{path}, line {line}: {_unknown_class(label, classes)}")
    return table.reset_index(drop=True)


def read_durations(path: PathLike) -> pd.DataFrame:
    """Read the durations of clips: one row a clip.

    Args:
        path: tab-separated file with the columns filename, duration (seconds).

    Returns:
        The columns filename, duration (float).

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    table = _read(path, ("filename", "duration"))
    table["duration"] = _seconds(path, table, "duration")
    _refuse(
        path,
        ~(table["duration"] > 0),
        lambda row: f"the duration {table['duration'][row]:g} is not above 0 seconds",
    )
    _refuse(
        path,
        table["filename"].duplicated(),
        lambda row: f"{table['filename'][row]} has a duration already; give each clip one row",
    )
    return table.reset_index(drop=True)


def read_filenames(path: PathLike) -> list[str]:
    """Read the names of clips from any table with a column `filename`, each name once.

    Raises:
        InputError: the file, the column or a name cannot be used.
    """
    return list(dict.fromkeys(_read(path, ("filename",))["filename"]))


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


def _read(path: PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read the columns as text, blanks and "nan" as ""; check that filenames stay inside.

    The index is the number of each row's line in the file.
    """
    separator, word = (",", "comma") if str(path).endswith(".csv") else ("\t", "tab")
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist or is not a file; give the path of a tsv file")
    try:
        # As text and without quoting: no label is taken for a missing value and no stray quote
        # swallows the lines after it.
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            encoding="utf-8-sig",
            skip_blank_lines=True,
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no content"
        raise InputError(f"{path} is not a {word}-separated table: {reason}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]!r}; its first line must name, separated by "
            f"{word}s: {', '.join(columns)} (it names: {', '.join(map(str, table.columns[:8]))})"
        )
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(
            f"{path} has rows with more fields than its first line names; "
            f"separate the fields by single {word}s"
        )
    table.index = _lines(path, len(table), separator)
    # A short row reads as missing values.
    table = table[list(columns)].fillna("").apply(lambda column: column.str.strip())
    table = table.mask(table.apply(lambda column: column.str.lower()).eq("nan"), "")
    _refuse(path, table["filename"].eq(""), lambda row: "the filename is empty")
    _refuse(
        path,
        ~table["filename"].map(_is_inside),
        lambda row: (
            f"the filename {table['filename'][row]!r} leads out of the audio folder; "
            "give a name relative to it"
        ),
    )
    return table


def _lines(path: PathLike, rows: int, separator: str) -> pd.Index:
    """Numbers of the lines of a table's rows: blank ones do not become rows."""
    blank = " \t\n".replace(separator, "")
    with open(path, encoding="utf-8-sig") as file:
        lines = [number for number, line in enumerate(file, 1) if line.strip(blank)]
    return pd.Index(lines[1:] if len(lines) == rows + 1 else range(2, rows + 2))


def _is_inside(name: str) -> bool:
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" not in name and not any(
        path.is_absolute() or path.drive or ".." in path.parts for path in paths
    )


def _seconds(path: PathLike, table: pd.DataFrame, column: str) -> pd.Series:
    """Convert a column of text to float seconds, NaN where it is empty."""
    numbers = pd.to_numeric(table[column].where(table[column].ne("")), errors="coerce")
    numbers = numbers.astype(float)
    bad = table[column].ne("") & ~np.isfinite(numbers)
    _refuse(
        path,
        bad,
        lambda row: f"{column} is {table[column][row]!r}; give a number of seconds",
    )
    return numbers


def _refuse_order(path: PathLike, bad: pd.Series, table: pd.DataFrame) -> None:
    """Raise for the first row whose onset is not before its offset."""
    _refuse(
        path,
        bad,
        lambda row: (
            f"the onset {table['onset'][row]:g} is not before the offset "
            f"{table['offset'][row]:g} (seconds)"
        ),
    )


def _refuse(path: PathLike, bad: pd.Series, sentence) -> None:
    """Raise for the first bad row, by the number of its line in the file, which is its index."""
    if bad.any():
        line = bad.index[np.flatnonzero(bad)[0]]
        raise InputError(f"{path}, line {line}: {sentence(line)}")


def _unknown_class(label: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(classes)}"
    return f"the class {label!r} is unknown; {hint}"
