"""Is a data set complete and sound? What the training would stumble over, found beforehand."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

import numpy as np
import pandas as pd
import soundfile

from lab.data.annotations import (
    hard_events,
    read_durations,
    read_filenames,
    read_strong_tsv,
    read_weak_tsv,
    to_tsv,
)
from lab.data.audio import audio_names, missing_clips, read_audio
from lab.data.classes import are_desed, classes_of_table
from lab.data.desed import CLASSES, official_layout
from lab.data.prepare import RATE
from lab.errors import InputError
from lab.files import PathLike, write_whole
from lab.processes import over_files

CLIP_SECONDS = 10.0
#: Seconds by which an event may end after its clip: some of DESED's own do, by up to 0.115 s.
SLACK = 0.2


class Part(NamedTuple):
    """A subset of DESED.

    Attributes:
        name: shown, and that of `prepare_desed.py --add`.
        key: beginning of its keys in the `data:` section.
        kind: strong, weak or unlabelled.
        clips: how many DESED has: https://github.com/turpaultn/DESED for the recordings, the
            official 2021 recipe (`generate_dcase_task4_2021.py`) for the synthetic clips.
        manifest: its name in `soundscapes.json` of a generated data set.
    """

    name: str
    key: str
    kind: str
    clips: int
    manifest: str | None


DESED = (
    Part("training", "synth", "strong", 10000, "strong"),
    Part("weak", "weak", "weak", 1578, "weak"),
    Part("unlabelled", "unlabeled", "unlabelled", 14412, "unlabelled"),
    Part("validation", "synth_val", "strong", 2500, "validation"),
    Part("test", "test", "strong", 1168, "test"),
    Part("public", "public", "strong", 692, None),
)


class Diagnosis(NamedTuple):
    """What was found of one part.

    Attributes:
        part: which.
        folder: where its clips are.
        found: number of clips.
        expected: number there should be; None where nothing says so.
        rates: sampling rate in Hz -> number of clips.
        seconds: shortest, median and longest duration.
        problems: sentences; the training or the scores would suffer.
        notes: sentences; good to know.
        missing: clips that a table names and that are not there.
        classes: that its table may name.
    """

    part: Part
    folder: Path
    found: int
    expected: int | None
    rates: Mapping[int, int]
    seconds: tuple[float, float, float] | None
    problems: Sequence[str]
    notes: Sequence[str]
    missing: Sequence[str]
    classes: Sequence[str] = CLASSES


class Clip(NamedTuple):
    """What was found of one file; the rate is in Hz, the duration in seconds."""

    rate: int
    seconds: float
    peak: float
    problem: str


def check(
    folder: PathLike,
    *,
    seconds: float = CLIP_SECONDS,
    fs: int = RATE,
    classes: Sequence[str] | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> list[Diagnosis]:
    """Examine every file of a data set in the official layout.

    A generated data set (`soundscapes.json`) is measured against what was asked for, any other
    of DESED's classes against DESED.

    Args:
        folder: the folder with `audio` and `metadata` in it.
        seconds: what the training takes of a clip, `data.audio_max_len` of its configuration.
        fs: `data.fs` of its configuration, in Hz.
        classes: `data.classes` of its configuration; None for those of the table of the training.
        processes: how many; as many as there are cores when None.
        progress: show bars, on a terminal.

    Returns:
        One diagnosis a part.

    Raises:
        InputError: the folder is none, or no data set.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is no folder; give one with audio/ and metadata/ in it")
    if not (root / "audio").is_dir() and not (root / "metadata").is_dir():
        raise InputError(f"{folder} holds neither audio/ nor metadata/; give a data set's folder")
    paths = official_layout(root)
    classes = list(classes) if classes is not None else _classes(paths["synth_tsv"])
    expected = _expected(root, own=not are_desed(classes))
    diagnoses = []
    for part in DESED:
        places = (paths.get(f"{part.key}_{kind}", "") for kind in ("folder", "folder_44k", "tsv"))
        if expected[part.key] is None and not any(map(os.path.exists, places)):
            continue
        title = part.name if progress else None
        diagnoses.append(
            _examine(part, paths, root, expected[part.key], seconds, fs, classes, processes, title)
        )
    return diagnoses


def _classes(table: str) -> list[str]:
    """Classes of the table of the training; DESED's where there is none, or none to be read."""
    try:
        return classes_of_table(table) or list(CLASSES)
    except InputError:
        # The part that it belongs to says what is wrong.
        return list(CLASSES)


def write_missing(diagnoses: Sequence[Diagnosis], path: PathLike) -> int:
    """Write the clips that are missing, as the lists that the organisers of DCASE ask for.

    Columns `filename` and `error`, as in the `missing_files_*.tsv` of the `desed` package, and
    `subset`.

    Returns:
        Number of clips.
    """
    rows = [(name, "missing", d.part.name) for d in diagnoses for name in d.missing]
    write_whole(path, to_tsv(pd.DataFrame(rows, columns=["filename", "error", "subset"])))
    return len(rows)


def report(diagnoses: Sequence[Diagnosis]) -> str:
    """Table of the parts, then their problems and notes; before it classes that are not DESED's."""
    classes = next((d.classes for d in diagnoses), CLASSES)
    lines = [] if are_desed(classes) else [f"classes: {', '.join(classes)}", ""]
    lines += [f"{'':22}{'clips':>8}{'expected':>10}{'Hz':>8}   seconds (shortest, median, longest)"]
    for d in diagnoses:
        rates = "/".join(str(rate) for rate in sorted(d.rates)) or "-"
        seconds = ", ".join(f"{value:.2f}" for value in d.seconds) if d.seconds else "-"
        expected = "-" if d.expected is None else f"{d.expected}"
        lines.append(f"{d.part.name:22}{d.found:>8}{expected:>10}{rates:>8}   {seconds}")
    for title, kind in (("problems", "problems"), ("notes", "notes")):
        sentences = [f"  {d.part.name}: {text}" for d in diagnoses for text in getattr(d, kind)]
        lines += ["", f"{title}: {len(sentences) or 'none'}", *sentences]
    return "\n".join(lines)


def _expected(root: Path, own: bool) -> dict[str, int | None]:
    """Number of clips of each part, None where nothing says how many, as of `own` classes."""
    manifest = root / "soundscapes.json"
    if not manifest.exists():
        return {part.key: None if own else part.clips for part in DESED}
    try:
        asked = json.loads(manifest.read_text(encoding="utf-8"))
        # Where none were asked for, a test set may have been added.
        return {part.key: asked.get(part.manifest) or None for part in DESED}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{manifest} cannot be read ({error}); generate the set again") from None


def _examine(
    part: Part,
    paths: Mapping[str, str],
    root: Path,
    expected: int | None,
    usual: float,
    fs: int,
    classes: Sequence[str],
    processes: int | None,
    title: str | None,
) -> Diagnosis:
    folder = Path(paths[f"{part.key}_folder"])
    names = audio_names(folder)
    clips = dict(
        zip(
            names,
            over_files(_listen, [folder / n for n in names], processes=processes, progress=title),
        )
    )
    problems: list[str] = []
    notes: list[str] = []
    downloaded = len(audio_names(paths[f"{part.key}_folder_44k"]))
    if not names and downloaded:
        problems.append(f"{downloaded} clips are not resampled to {fs} Hz; use --resample {root}")
    elif expected is not None and len(names) != expected:
        problems.append(f"{len(names)} clips in {folder}, not {expected}")
    sound = {name: clip for name, clip in clips.items() if not clip.problem}
    _say(problems, "cannot be used", [clip.problem for clip in clips.values() if clip.problem])
    _say(
        problems,
        f"not at {fs} Hz, data.fs of the training; --add or --resample the originals with "
        f"--rate {fs}",
        [name for name, clip in sound.items() if clip.rate != fs],
    )
    _say(notes, "silent from start to end", [n for n, clip in sound.items() if clip.peak == 0])
    short = [n for n, clip in sound.items() if clip.seconds < usual - SLACK]
    _say(notes, f"shorter than {usual:g} s, which are padded", short)
    long = [n for n, clip in sound.items() if clip.seconds > usual + SLACK]
    # Of the weak clips most are for training; the others are taken whole.
    cut = "which the training cuts into windows"
    scored = part.key in ("synth_val", "test", "public")
    _say(notes, f"longer than {usual:g} s, {'scored whole' if scored else cut}", long)

    missing: list[str] = []
    try:
        missing = _compare(part, paths, root, classes, sound, set(names), problems, notes)
    except InputError as error:
        problems.append(str(error))
    named = "missing: named in a table and not there"
    _say(problems, named, missing_clips(missing[:3], folder) + missing[3:])
    seconds = [clip.seconds for clip in sound.values()]
    return Diagnosis(
        part,
        folder,
        len(names),
        expected,
        dict(Counter(clip.rate for clip in sound.values())),
        (min(seconds), float(np.median(seconds)), max(seconds)) if seconds else None,
        problems,
        notes,
        missing,
        classes,
    )


def _listen(path: Path) -> Clip:
    try:
        audio = read_audio(path, None)
        rate = soundfile.info(str(path)).samplerate
    except InputError as error:
        return Clip(0, 0.0, 0.0, str(error))
    return Clip(rate, len(audio) / rate, float(np.abs(audio).max()), "")


def _compare(
    part: Part,
    paths: Mapping[str, str],
    root: Path,
    classes: Sequence[str],
    clips: Mapping[str, Clip],
    there: set[str],
    problems: list[str],
    notes: list[str],
) -> list[str]:
    """Hold the tables of a part against its clips; return the clips that are missing."""
    if part.kind == "unlabelled":
        # The training takes whatever is there; DESED's table is good for naming what is not.
        table = root / "metadata" / "train" / "unlabel_in_domain.tsv"
        if not table.exists():
            return []
        return [name for name in read_filenames(table) if name not in there]
    if part.kind == "weak":
        weak = read_weak_tsv(paths["weak_tsv"], classes)
        _say(problems, "without any tag", list(weak["filename"][weak["event_labels"] == ""]))
        named = list(weak["filename"])
    else:
        events = read_strong_tsv(paths[f"{part.key}_tsv"], classes)
        named = list(dict.fromkeys(events["filename"]))
        empty = list(events["filename"][events["event_label"].isna()])
        _say(notes, "without events", empty)
        overlap = overlapping(hard_events(events))
        _say(problems, "with overlapping events of one class", overlap)
        if part.key == "synth":
            unused = [name for name in classes if name not in set(events["event_label"])]
            if unused:
                notes.append(f"no event of {', '.join(unused)}: nothing to learn them from")
        seconds = {name: clip.seconds for name, clip in clips.items()}
        if f"{part.key}_dur" in paths:
            seconds = _durations(paths[f"{part.key}_dur"], named, seconds, problems)
        ends = events.dropna().groupby("filename")["offset"].max()
        late = [n for n, end in ends.items() if end > seconds.get(n, np.inf) + SLACK]
        _say(problems, f"with events that end more than {SLACK} s after the clip", late)
    _say(notes, "in no table, so never used", sorted(there - set(named)))
    folder = Path(paths[f"{part.key}_folder"])
    others = [name for name in named if name not in there and (folder / name).is_file()]
    _say(problems, "of a format that libsndfile does not read; convert it to wav", others)
    return [name for name in named if name not in there and name not in others]


def _durations(
    path: str, named: Sequence[str], seconds: Mapping[str, float], problems: list[str]
) -> dict[str, float]:
    """Durations as the scores take them, held against the clips."""
    table = read_durations(path)
    stated = dict(zip(table["filename"], table["duration"]))
    _say(problems, f"without a row in {path}", [name for name in named if name not in stated])
    off = [n for n, s in seconds.items() if n in stated and abs(stated[n] - s) > SLACK]
    _say(problems, f"more than {SLACK} s longer or shorter than {path} says", off)
    return stated


def overlapping(events: pd.DataFrame) -> list[str]:
    """Clips in which two events of one class overlap, which PSDS refuses.

    Example:
        >>> rows = [("a.wav", 0, 2, "Dog"), ("a.wav", 1, 3, "Dog"), ("b.wav", 0, 2, "Dog")]
        >>> overlapping(pd.DataFrame(rows, columns=["filename", "onset", "offset", "event_label"]))
        ['a.wav']
    """
    given = events.dropna().sort_values(["filename", "event_label", "onset"])
    # The latest end so far: an event may lie inside a long one that began before its neighbour.
    groups = given.groupby(["filename", "event_label"])["offset"]
    ended = groups.cummax().groupby([given["filename"], given["event_label"]]).shift()
    return sorted(set(given["filename"][given["onset"] < ended]))


def _say(sentences: list[str], what: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        sentences.append(f"{len(names)} clip{'s' * (len(names) > 1)} {what}: {shown}")
