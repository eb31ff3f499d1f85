"""From what was downloaded or recorded to a data set in the official layout, at one rate."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np
import pandas as pd

from lab.data.annotations import read_strong_tsv, read_weak_tsv, to_tsv
from lab.data.audio import (
    Conversion,
    audio_names,
    convert,
    file_names,
    open_audio,
    refuse_missing,
    stem,
    wav_name,
)
from lab.data.classes import classes_of_table
from lab.data.desed import official_layout
from lab.data.tracks import read_tracks
from lab.errors import InputError
from lab.files import PathLike, one_spelling, remove_left_over, write_whole
from lab.processes import over_files

#: Parts of the official layout, by the beginning of their keys in the `data:` section.
PARTS = ("synth", "weak", "unlabeled", "synth_val", "test", "public", "eval")
RATE = 16000  # Hz, of the official layout, which is in the names of its folders
#: Sets that recordings of one's own may become, and the part of the layout that each one is.
SETS = {
    "training": "synth",
    "weak": "weak",
    "unlabelled": "unlabeled",
    "validation": "synth_val",
    "test": "test",
    "public": "public",
}


class Addition(NamedTuple):
    """What was laid into a folder."""

    clips: int  # that it got or had
    loss: float  # share of the sound's energy that went with the frequencies above half the rate
    worst: tuple[str, float] | None  # the clip that lost most, and its share; of a lowered rate


def resample_tree(
    folder: PathLike, *, fs: int = RATE, processes: int | None = None, progress: bool = True
) -> dict[str, Addition]:
    """Resample what was downloaded: `.../weak/*.wav` to `.../weak_16k/*.wav`, and so on.

    What is done already is kept, so an interrupted run goes on. Tables of durations that the
    official layout has and that are missing are written.

    Args:
        folder: data set in the official layout.
        fs: sampling rate of the result in Hz; the folders keep their names.
        processes: as many as there are cores when None.
        progress: show bars, on a terminal.

    Returns:
        What each folder of resampled audio got or had.

    Raises:
        InputError: there is no audio to resample, or a file cannot be used.
    """
    paths = official_layout(folder)
    done: dict[str, Addition] = {}
    for part in PARTS:
        source, target = Path(paths[f"{part}_folder_44k"]), Path(paths[f"{part}_folder"])
        names = audio_names(source)
        if not names:
            continue
        jobs = [(source / name, target / wav_name(name)) for name in names]
        done[str(target)] = _convert_all(jobs, target, fs, processes, part if progress else None)
    if not done:
        raise InputError(
            f"{folder} holds no audio to resample; it should be in folders such as "
            f"{paths['weak_folder_44k']}"
        )
    for part in ("synth_val", "test", "public"):
        table = Path(paths[f"{part}_dur"])
        names = audio_names(paths[f"{part}_folder"])
        if names and not table.exists():
            write_durations(Path(paths[f"{part}_folder"]), names, table)
    return done


def add_set(
    name: str,
    out: PathLike,
    audio: PathLike,
    table: PathLike | pd.DataFrame | None,
    *,
    classes: Sequence[str] | None = None,
    fs: int = RATE,
    processes: int | None = None,
    progress: bool = True,
) -> Addition:
    """Lay recordings into a data set as one of its sets, as mono wav files of one rate.

    Args:
        name: which of :data:`SETS`. Those that are scored get a table of durations.
        out: data set in the official layout, or a new folder.
        audio: folder of the clips (:data:`lab.data.audio.FORMATS`, any sampling rate, any
            channels). The table may name them with another suffix or none, and in folders of that
            folder.
        table: their events, a table (:func:`lab.data.annotations.read_strong_tsv`, read or not)
            or a folder of labels (:func:`lab.data.tracks.read_tracks`); of weak clips their tags
            (:func:`lab.data.annotations.read_weak_tsv`). None for unlabelled clips: all that the
            folder holds.
        classes: that the table may name; None for those of the training set that is there, or any
            where there is none.
        fs: sampling rate of the set in Hz: `data.fs` of the training.
        processes: how many; as many as there are cores when None.
        progress: show a bar, on a terminal.

    Raises:
        InputError: a file is missing or cannot be used, a class is unknown, or `out` holds
            another set of this name.
    """
    part = SETS[name]
    paths = official_layout(out)
    if classes is None and part != "synth":
        classes = classes_of_table(paths["synth_tsv"])
    labels, named_by = None, audio
    if isinstance(table, pd.DataFrame):
        labels = table
    elif table is not None:
        labels, named_by = _read_labels(part, table, audio, classes), table
    clips = _names_in(audio) if labels is None else list(dict.fromkeys(labels["filename"]))
    files = _find_audio(Path(audio), clips, named_by)
    names = {name: wav_name(name) for name in files}
    target = Path(paths[f"{part}_folder"])
    text = ""
    if labels is not None:
        text = to_tsv(labels.assign(filename=labels["filename"].map(names)))
        _refuse_another_table(paths[f"{part}_tsv"], text)
    others = [clip for clip in audio_names(target) if clip not in set(names.values())]
    if others:
        raise InputError(
            f"{target} holds {len(others)} clips of another set, such as {others[0]}; "
            "give another --out"
        )
    jobs = [(path, target / names[name]) for name, path in files.items()]
    addition = _convert_all(jobs, target, fs, processes, name if progress else None)
    if f"{part}_dur" in paths:
        write_durations(target, sorted(names.values()), Path(paths[f"{part}_dur"]))
    # The table last: where it is, all the audio is.
    if labels is not None:
        write_whole(paths[f"{part}_tsv"], text)
    return addition


def add_split(
    out: PathLike,
    audio: PathLike,
    table: PathLike,
    shares: Sequence[float],
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Iterator[tuple[str, Addition]]:
    """Lay recordings of one folder into a data set as its training, validation and test sets.

    Args:
        out, audio, table, classes, options: as of :func:`add_set`.
        shares: of the three sets, in per cent of the recordings; see :func:`split`.
        seed: of the random order.

    Yields:
        Name of a set, and what it got.
    """
    events = _read_labels("synth", table, audio, classes)
    for name, clips in split(events, shares, seed).items():
        rows = events[events["filename"].isin(clips)]
        yield name, add_set(name, out, audio, rows, classes=classes, **options)


def split(events: pd.DataFrame, shares: Sequence[float], seed: int = 0) -> dict[str, list[str]]:
    """Draw the recordings of the training, validation and test sets.

    The training set hears every class: the first recordings of each, in the order drawn, are its
    own, and with the next ones it has its share.

    Args:
        events: columns filename, event_label.
        shares: in per cent, in the order of the sets.
        seed: of the order.

    Raises:
        InputError: the shares do not add up, or there are too few recordings for them.

    Example:
        >>> events = pd.DataFrame({"filename": [*"abcd"], "event_label": ["Cat", "Dog"] * 2})
        >>> split(events, (50, 25, 25))
        {'training': ['b', 'c'], 'validation': ['a'], 'test': ['d']}
    """
    if min(shares) <= 0 or not np.isclose(sum(shares), 100):
        raise InputError(
            f"--split {' '.join(f'{share:g}' for share in shares)}: give three shares above 0 "
            "that add up to 100"
        )
    labels = events.groupby("filename")["event_label"].agg(lambda one: set(one.dropna()))
    drawn = np.random.default_rng(seed).permutation(sorted(labels.index)).tolist()
    heard: set[str] = set()
    first = []
    for name in drawn:
        if not labels[name] <= heard:
            first.append(name)
            heard |= labels[name]
    order = [*first, *(name for name in drawn if name not in set(first))]
    ends = np.round(np.cumsum([0, *shares]) / 100 * len(order)).astype(int)
    sets = {
        name: sorted(order[start:end])
        for name, start, end in zip(("training", "validation", "test"), ends, ends[1:])
    }
    if not all(sets.values()) or ends[1] < len(first):
        counts = ", ".join(f"{len(clips)} {name}" for name, clips in sets.items())
        raise InputError(
            f"--split makes {counts} of {len(order)} recordings, and each set needs one and the "
            f"training {len(first)} for its {len(heard)} classes; give other shares or more "
            "recordings"
        )
    return sets


def _read_labels(
    part: str, table: PathLike, audio: PathLike, classes: Sequence[str] | None
) -> pd.DataFrame:
    if os.path.isdir(table):
        return read_tracks(table, _names_in(audio), classes)
    return (read_weak_tsv if part == "weak" else read_strong_tsv)(table, classes)


def _names_in(audio: PathLike) -> list[str]:
    names = audio_names(audio)
    if not names:
        others = file_names(audio)
        instead = f" ({len(others)} other files, such as {others[0]})" if others else ""
        raise InputError(
            f"{audio} holds no audio that libsndfile reads (wav, flac, ogg, mp3, ...){instead}; "
            "give the folder of the clips, or convert them to wav"
        )
    return names


def write_durations(folder: Path, names: list[str], table: Path) -> None:
    """Write the durations of clips as a table with the columns filename, duration (seconds)."""
    seconds = []
    for name in names:
        with open_audio(folder / name) as file:
            seconds.append(round(file.frames / file.samplerate, 3))
    write_whole(table, to_tsv(pd.DataFrame({"filename": names, "duration": seconds})))


def _convert_all(
    jobs: list[tuple[Path, Path]], target: Path, fs: int, processes: int | None, title: str | None
) -> Addition:
    remove_left_over(target)
    done = list(over_files(partial(_convert, fs=fs), jobs, processes=processes, progress=title))
    energy = sum(one.energy for one in done)
    lost = [
        (one.lost, one.lost / one.energy if one.energy else 0.0, source.name)
        for (source, _), one in zip(jobs, done)
        if one.lost is not None
    ]
    worst = max(((name, share) for _, share, name in lost), key=lambda one: one[1], default=None)
    return Addition(len(done), sum(loss for loss, *_ in lost) / energy if energy else 0.0, worst)


def _convert(job: tuple[Path, Path], fs: int) -> Conversion:
    return convert(*job, fs=fs)


def _find_audio(folder: Path, names: list[str], table: PathLike) -> dict[str, Path]:
    """Path of each named clip, whatever its suffix is in the folder."""
    if not names:
        raise InputError(f"{table} names no clip; give each clip a row")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the folder of the clips of {table}")
    alike: dict[str, list[str]] = {}
    for name in audio_names(folder):
        for key in (name, stem(name)):
            alike.setdefault(one_spelling(key), []).append(name)
    files: dict[str, Path] = {}
    missing = []
    for name in names:
        key = one_spelling(name)
        here = [name] if (folder / name).is_file() else alike.get(key) or alike.get(stem(key), [])
        if len(here) > 1:
            raise InputError(f"{folder} holds {here[0]} and {here[1]} for {name}; keep one of them")
        if here:
            files[name] = folder / here[0]
        else:
            missing.append(name)
    refuse_missing(missing, names, str(table), folder)
    taken: dict[object, str] = {}
    for name, path in files.items():
        for clip in (path, wav_name(name)):
            first = taken.setdefault(clip, name)
            if first != name:
                raise InputError(f"{table} names {first} and {name}, the same clip; keep one name")
    return files


def _refuse_another_table(path: PathLike, text: str) -> None:
    """Raise where a table is there that is not this one; one without rows may go."""
    if os.path.exists(path):
        there = Path(path).read_text(encoding="utf-8", errors="replace")
        if there != text and len(there.splitlines()) > 1:
            raise InputError(f"{path} holds another set; give another --out")
