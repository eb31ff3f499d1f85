"""The data set's tables: events in seconds, tags of clips, durations of clips, all checked."""

from __future__ import annotations

import csv
import difflib
import os
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import Sequence

import numpy as np
import pandas as pd

from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import PathLike, one_spelling


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
    table = _read_events(path, soft=True)
    has_event = table["event_label"].notna()
    _refuse_order(path, has_event & (table["onset"] == table["offset"]), table)
    for line, label in table["event_label"][has_event].drop_duplicates().items():
        _refuse_class(path, line, label, classes)
    return table.reset_index(drop=True)


def read_reference(path: PathLike, classes: Sequence[str] | None = CLASSES) -> pd.DataFrame:
    """Read the events that detections are scored against: of soft labels those from 0.5 on.

    Args:
        path: see :func:`read_strong_tsv`.
        classes: the labels that may occur; None for any that a configuration may name.

    Returns:
        See :func:`hard_events`.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    return hard_events(read_strong_tsv(path, classes))


def hard_events(table: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """Events of soft labels: those of a confidence from the threshold on, joined where they touch.

    MAESTRO's soft labels are segments of a second each: an event is a run of them. A clip that is
    left without events keeps a row with its name. A table without confidences is given back.

    Args:
        table: as :func:`read_strong_tsv` returns it.
        threshold: of the confidence.

    Returns:
        The columns filename, onset, offset (seconds), event_label.

    Example:
        >>> rows = [("a.wav", 0, 1, "Dog", 0.8), ("a.wav", 1, 2, "Dog", 0.5),
        ...         ("b.wav", 0, 1, "Dog", 0.4)]
        >>> columns = ["filename", "onset", "offset", "event_label", "confidence"]
        >>> hard_events(pd.DataFrame(rows, columns=columns))
          filename  onset  offset event_label
        0    a.wav    0.0     2.0         Dog
        1    b.wav    NaN     NaN         NaN
    """
    if "confidence" not in table:
        return table
    by = ["filename", "event_label"]
    sure = table[table["confidence"] >= threshold].sort_values([*by, "onset"])
    ended = sure.groupby(by)["offset"].cummax().groupby([sure[name] for name in by]).shift()
    # The first of its class in a clip has nothing to be joined to.
    begins = ~(sure["onset"] <= ended)
    events = sure.groupby(begins.cumsum().to_numpy(), sort=False).agg(
        {"filename": "first", "onset": "first", "offset": "max", "event_label": "first"}
    )
    order = table["filename"].drop_duplicates()
    events = events.astype({"onset": float, "offset": float})
    events = order.to_frame().merge(events, on="filename", how="left")
    place = events["filename"].map(dict(zip(order, range(len(order)))))
    return events.assign(place=place).sort_values(
        ["place", "onset", "offset", "event_label"], ignore_index=True
    )[["filename", "onset", "offset", "event_label"]]


def read_events(path: PathLike, *, soft: bool = False) -> pd.DataFrame:
    """Read events of any classes, as any system may have written them.

    As :func:`read_strong_tsv`, but for the names of the classes and events of no length, which
    are taken as they are; a file that ends in `.csv` is separated by commas.

    Args:
        path: of the file.
        soft: read a column confidence, too, where there is one.

    Raises:
        InputError: the file, a column or a row cannot be used.
    """
    return _read_events(path, soft).reset_index(drop=True)


def _read_events(path: PathLike, soft: bool) -> pd.DataFrame:
    """As :func:`read_events`, with the line of each row as its index."""
    optional = ("confidence",) if soft else ()
    table = _read(path, ("filename", "onset", "offset", "event_label"), optional)
    empty = table[["onset", "offset", "event_label"]].eq("")
    partly = empty.any(axis=1) & ~empty.all(axis=1)
    _refuse(
        path,
        partly,
        lambda row: "onset, offset and event_label must be all given or all empty (nan is empty)",
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
    if "confidence" in table:
        given = table["confidence"].where(table["confidence"].ne(""), "1")
        numbers = pd.to_numeric(given, errors="coerce").astype(float)
        _refuse(
            path,
            ~numbers.between(0, 1),
            lambda row: f"confidence is {given[row]!r}; give a number from 0 to 1",
        )
        table["confidence"] = numbers.where(has_event, np.nan)
    return table


def read_weak_tsv(path: PathLike, classes: Sequence[str] | None = CLASSES) -> pd.DataFrame:
    """Read weakly labelled clips: one row a clip.

    Args:
        path: tab-separated file with the columns filename, event_labels (separated by commas;
            empty for a clip without events).
        classes: the labels that may occur; None for any that a configuration may name.

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
            _refuse_class(path, line, label, classes)
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


def _read(path: PathLike, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
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
    there = [*columns, *(column for column in optional if column in table.columns)]
    table = table[there].fillna("").apply(lambda column: column.str.strip())
    table = table.mask(table.apply(lambda column: column.str.lower()).eq("nan"), "")
    for column in table.columns.intersection(["event_label", "event_labels"]):
        table[column] = table[column].map(one_spelling)
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


def _refuse_class(path: PathLike, line: object, label: str, classes: Sequence[str] | None) -> None:
    """Raise for a label that is not among the classes or, where these are None, no name of one."""
    if classes is None:
        problem = wrong_name(label)
    else:
        problem = "" if label in classes else _unknown_class(label, classes)
    if problem:
        raise InputError(f"{path}, line {line}: {problem}")


def _unknown_class(label: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the classes are {', '.join(classes)}"
    return f"the class {label!r} is unknown; {hint} (data.classes names them)"
