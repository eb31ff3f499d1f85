"""Is a data set complete and sound? What the training would stumble over, found beforehand."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

import numpy as np
import pandas as pd
import soundfile

from lab.data.annotations import (
    hard_events,
    latest_offset,
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
        kind: strong, weak or unlabelled; in `soundscapes.json` the training set is called strong.
        clips: how many DESED has: https://github.com/turpaultn/DESED for the recordings, the
            official 2021 recipe (`generate_dcase_task4_2021.py`) for the synthetic clips.
    """

    name: str
    key: str
    kind: str
    clips: int


DESED = (
    Part("training", "synth", "strong", 10000),
    Part("weak", "weak", "weak", 1578),
    Part("unlabelled", "unlabeled", "unlabelled", 14412),
    Part("validation", "synth_val", "strong", 2500),
    Part("test", "test", "strong", 1168),
    Part("public", "public", "strong", 692),
)


class Clip(NamedTuple):
    """What was found of one file; the rate is in Hz, the duration in seconds."""

    rate: int
    seconds: float
    peak: float
    problem: str


@dataclass
class Diagnosis:
    """What was found of one part.

    Attributes:
        part: which.
        folder: where its clips are.
        expected: number of clips there should be; None where nothing says so.
        classes: that its table may name.
        clips: what was found of each file.
        problems: sentences; the training or the scores would suffer.
        notes: sentences; good to know.
        missing: clips that a table names and that are not there.
    """

    part: Part
    folder: Path
    expected: int | None
    classes: Sequence[str]
    clips: Mapping[str, Clip]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def sound(self) -> dict[str, Clip]:
        """Clips that can be used."""
        return {name: clip for name, clip in self.clips.items() if not clip.problem}

    @property
    def rates(self) -> dict[int, int]:
        """Sampling rate in Hz -> number of clips."""
        return dict(Counter(clip.rate for clip in self.sound.values()))

    @property
    def seconds(self) -> tuple[float, float, float] | None:
        """Shortest, median and longest duration."""
        seconds = [clip.seconds for clip in self.sound.values()]
        return (min(seconds), float(np.median(seconds)), max(seconds)) if seconds else None


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
        seconds: `data.audio_max_len` of the training's configuration.
        fs: `data.fs` of it, in Hz.
        classes: `data.classes` of it; None for those of the table of the training.
        processes: how many; as many as there are cores when None.
        progress: show bars, on a terminal.

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
        audio = Path(paths[f"{part.key}_folder"])
        names = audio_names(audio)
        title = part.name if progress else None
        clips = over_files(_listen, [audio / n for n in names], processes=processes, progress=title)
        one = Diagnosis(part, audio, expected[part.key], classes, dict(zip(names, clips)))
        _examine_clips(one, paths, seconds, fs)
        try:
            _compare(one, paths, root)
        except InputError as error:
            one.problems.append(str(error))
        named = missing_clips(one.missing[:3], audio) + one.missing[3:]
        _say(one.problems, "missing: named in a table and not there", named)
        diagnoses.append(one)
    return diagnoses


def _classes(table: str) -> list[str]:
    """Classes of the table of the training; DESED's where there is none, or none to be read."""
    try:
        return classes_of_table(table) or list(CLASSES)
    except InputError:
        # The part that it belongs to says what is wrong.
        return list(CLASSES)


def write_missing(diagnoses: Sequence[Diagnosis], path: PathLike) -> int:
    """Write the clips that are missing, as the organisers of DCASE ask for; return their number.

    Columns `filename` and `error`, as in the `missing_files_*.tsv` of the `desed` package, and
    `subset`.
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
        lines.append(f"{d.part.name:22}{len(d.clips):>8}{expected:>10}{rates:>8}   {seconds}")
    for kind in ("problems", "notes"):
        sentences = [f"  {d.part.name}: {text}" for d in diagnoses for text in getattr(d, kind)]
        lines += ["", f"{kind}: {len(sentences) or 'none'}", *sentences]
    return "\n".join(lines)


def _expected(root: Path, own: bool) -> dict[str, int | None]:
    """Number of clips of each part, None where nothing says how many, as of `own` classes."""
    manifest = root / "soundscapes.json"
    if not manifest.exists():
        return {part.key: None if own else part.clips for part in DESED}
    try:
        numbers = json.loads(manifest.read_text(encoding="utf-8"))
        # Where the number is 0, a test set may have been added.
        name = {"training": "strong"}
        return {part.key: numbers.get(name.get(part.name, part.name)) or None for part in DESED}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{manifest} cannot be read ({error}); generate the set again") from None


def _examine_clips(one: Diagnosis, paths: Mapping[str, str], usual: float, fs: int) -> None:
    downloaded = Path(paths[f"{one.part.key}_folder_44k"])
    if not one.clips and audio_names(downloaded):
        one.problems.append(
            f"{len(audio_names(downloaded))} clips are not resampled to {fs} Hz; use --resample"
        )
    elif one.expected is not None and len(one.clips) != one.expected:
        one.problems.append(f"{len(one.clips)} clips in {one.folder}, not {one.expected}")
    sound = one.sound
    unusable = [clip.problem for clip in one.clips.values() if clip.problem]
    _say(one.problems, "cannot be used", unusable)
    _say(
        one.problems,
        f"not at {fs} Hz, data.fs of the training; --add or --resample the originals with "
        f"--rate {fs}",
        [name for name, clip in sound.items() if clip.rate != fs],
    )
    _say(one.notes, "silent from start to end", [n for n, clip in sound.items() if clip.peak == 0])
    short = [n for n, clip in sound.items() if clip.seconds < usual - SLACK]
    _say(one.notes, f"shorter than {usual:g} s, which are padded", short)
    long = [n for n, clip in sound.items() if clip.seconds > usual + SLACK]
    # Of the weak clips most are for training; the others are taken whole.
    scored = one.part.key in ("synth_val", "test", "public")
    cut = "scored whole" if scored else "which the training cuts into windows"
    _say(one.notes, f"longer than {usual:g} s, {cut}", long)


def _listen(path: Path) -> Clip:
    try:
        audio = read_audio(path, None)
        rate = soundfile.info(str(path)).samplerate
    except InputError as error:
        return Clip(0, 0.0, 0.0, str(error))
    return Clip(rate, len(audio) / rate, float(np.abs(audio).max()), "")


def _compare(one: Diagnosis, paths: Mapping[str, str], root: Path) -> None:
    """Hold the tables of a part against its clips."""
    key = one.part.key
    if one.part.kind == "unlabelled":
        # The training takes whatever is there; DESED's table is good for naming what is not.
        table = root / "metadata" / "train" / "unlabel_in_domain.tsv"
        named = read_filenames(table) if table.exists() else []
        one.missing = [name for name in named if name not in one.clips]
        return
    if one.part.kind == "weak":
        weak = read_weak_tsv(paths["weak_tsv"], one.classes)
        _say(one.problems, "without any tag", list(weak["filename"][weak["event_labels"] == ""]))
        named = list(weak["filename"])
    else:
        events = read_strong_tsv(paths[f"{key}_tsv"], one.classes)
        named = list(dict.fromkeys(events["filename"]))
        _say(one.notes, "without events", list(events["filename"][events["event_label"].isna()]))
        overlap = overlapping(hard_events(events))
        _say(one.problems, "with overlapping events of one class", overlap)
        unused = [name for name in one.classes if name not in set(events["event_label"])]
        if key == "synth" and unused:
            one.notes.append(f"no event of {', '.join(unused)}: nothing to learn them from")
        seconds = {name: clip.seconds for name, clip in one.sound.items()}
        if f"{key}_dur" in paths:
            seconds = _durations(one, paths[f"{key}_dur"], named, seconds)
        ends = events.dropna().groupby("filename")["offset"].max()
        late = [n for n, end in ends.items() if end > seconds.get(n, np.inf) + SLACK]
        _say(one.problems, f"with events that end more than {SLACK} s after the clip", late)
    _say(one.notes, "in no table, so never used", sorted(set(one.clips) - set(named)))
    absent = [name for name in named if name not in one.clips]
    others = [name for name in absent if (one.folder / name).is_file()]
    _say(one.problems, "of a format that libsndfile does not read; convert it to wav", others)
    one.missing = [name for name in absent if name not in others]


def _durations(
    one: Diagnosis, path: str, named: Sequence[str], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Durations as the scores take them, held against the clips."""
    table = read_durations(path)
    stated = dict(zip(table["filename"], table["duration"]))
    _say(one.problems, f"without a row in {path}", [name for name in named if name not in stated])
    off = [n for n, s in seconds.items() if n in stated and abs(stated[n] - s) > SLACK]
    _say(one.problems, f"more than {SLACK} s longer or shorter than {path} says", off)
    return stated


def overlapping(events: pd.DataFrame) -> list[str]:
    """Clips in which two events of one class overlap, which PSDS refuses."""
    rows = events.dropna().sort_values(["filename", "event_label", "onset"])
    return sorted(set(rows["filename"][rows["onset"] < latest_offset(rows)]))


def _say(sentences: list[str], what: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        sentences.append(f"{len(names)} clip{'s' * (len(names) > 1)} {what}: {shown}")
