"""Generate a data set: processes, progress, resuming, and the tables at the end."""

from __future__ import annotations

import json
import numbers
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, Mapping, Tuple

from tqdm import tqdm

from dcase_coherence.soundscapes import layout
from dcase_coherence.soundscapes.soundbank import RecordedSounds
from dcase_coherence.soundscapes.worker import DONE, make_clips
from dcase_coherence.system.errors import InputError
from dcase_coherence.system.files import PathLike

# Raise it when clips of one seed come out differently, so that trees are not mixed.
FORMAT = 1
Clip = Tuple[str, int]


def generate(
    out: PathLike,
    *,
    strong: int = 1000,
    weak: int = 150,
    unlabelled: int = 600,
    validation: int = 250,
    test: int = 250,
    seed: int = 0,
    soundbank: PathLike | None = None,
    test_soundbank: PathLike | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Generate a data set of 10 s clips at 16 kHz in the layout of the DCASE 2021 baseline.

    A clip depends on the seed, its subset and its number alone: the files are the same for any
    number of processes. A run that was interrupted goes on where it stopped, and a data set that
    is complete is returned at once.

    Args:
        out: folder of the data set; new, empty, or made with the same settings.
        strong: number of strongly labelled training clips.
        weak: number of weakly labelled training clips.
        unlabelled: number of unlabelled training clips, 3 % of them without any event.
        validation: number of strongly labelled clips like the training ones.
        test: number of strongly labelled clips with other parameters, rooms and channels.
        seed: non-negative.
        soundbank: folder of recordings with ``foreground/<Class>/`` and ``background/<label>/``,
            instead of the parametric sounds. Every fifth recording goes to ``validation`` only.
        test_soundbank: folder of recordings for ``test``; ``soundbank`` when None.
        processes: number of processes; as many as there are cores when None.
        progress: show a progress bar, if standard error is a terminal.

    Returns:
        ``out``.

    Raises:
        InputError: when a setting or a soundbank cannot be used, ``out`` holds something else,
            or cannot be written.
    """
    counts = {
        "strong": strong,
        "weak": weak,
        "unlabelled": unlabelled,
        "validation": validation,
        "test": test,
    }
    for name, value in [*counts.items(), ("seed", seed)]:
        _check_integer(name, value, 0)
    if processes is None:
        processes = _cores()
    _check_integer("processes", processes, 1)
    if test_soundbank is not None and soundbank is None:
        raise InputError(
            f"--test-soundbank {test_soundbank} needs --soundbank: training clips cannot be "
            "parametric when test clips are recorded"
        )
    settings: dict[str, object] = {
        "format": FORMAT,
        "seed": int(seed),
        **{name: int(count) for name, count in counts.items()},
        "soundbank": _identify(soundbank),
        "test_soundbank": _identify(test_soundbank),
    }
    root = Path(out)
    _claim(root, settings)

    left_over = layout.partial_files(root)
    clips = list(_missing_clips(root, counts))
    _check_room(root, len(clips))
    task: dict[str, object] = {
        "seed": int(seed),
        "soundbank": None if soundbank is None else str(Path(soundbank).resolve()),
        "test_soundbank": None if test_soundbank is None else str(Path(test_soundbank).resolve()),
    }
    with tqdm(
        total=sum(counts.values()),
        initial=sum(counts.values()) - len(clips),
        desc="soundscapes",
        unit="clip",
        disable=None if progress else True,
    ) as bar:
        for _ in _run(root, task, clips, processes):
            bar.update()
    _write_tables(root, counts)
    # A partial file is there for milliseconds: one from before the run belongs to a killed one.
    for path in left_over:
        if path.exists():
            path.unlink()
    return root


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"--{name} is {value!r}; give a whole number of at least {least}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _identify(soundbank: PathLike | None) -> str | None:
    return None if soundbank is None else RecordedSounds(Path(soundbank)).fingerprint()


def _claim(root: Path, settings: Mapping[str, object]) -> None:
    """Make sure that a folder holds no clips, or clips made with the same settings."""
    manifest = root / layout.MANIFEST
    if root.exists() and not root.is_dir():
        raise InputError(f"--out {root} is a file; give a folder")
    if not manifest.exists():
        for name in ("audio", "metadata"):
            if (root / name).exists():
                raise InputError(
                    f"{root / name} exists and was not made by this command (there is no "
                    f"{layout.MANIFEST}); give another --out"
                )
    elif (root / "audio").exists():
        try:
            made_with = json.loads(manifest.read_text())
            differing = [key for key in settings if made_with.get(key) != settings[key]]
        except (ValueError, AttributeError, OSError) as error:
            raise InputError(f"{manifest} cannot be read ({error}); give another --out") from None
        if differing:
            key = differing[0]
            raise InputError(
                f"{root} was made with {key} {_words(made_with.get(key))}, not "
                f"{_words(settings[key])}; give another --out, or the settings in {manifest}"
            )
        return
    layout.write(manifest, (json.dumps(settings, indent=2) + "\n").encode())


def _words(value: object) -> str:
    return "none" if value is None else str(value)


def _missing_clips(root: Path, counts: Mapping[str, int]) -> Iterator[Clip]:
    """List the clips that are not whole, or whose events are neither kept nor in the table."""
    for name, count in counts.items():
        subset = layout.SUBSETS[name]
        tabled = subset.table is None or (root / subset.table).exists()
        folder = root / subset.audio
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        for index in range(count):
            whole = subset.filename(index) in there and layout.is_whole(
                folder / subset.filename(index)
            )
            if not (whole and (tabled or layout.annotation_path(root, subset, index).exists())):
                yield name, index


def _check_room(root: Path, clips: int) -> None:
    needed, free = clips * layout.WAV_SIZE, shutil.disk_usage(root).free
    if needed > free:
        raise InputError(
            f"{root} needs {needed / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB left; make "
            "room, ask for fewer clips, or give another --out"
        )


def _run(
    root: Path, task: Mapping[str, object], clips: list[Clip], processes: int
) -> Iterator[None]:
    """Make clips in processes of their own, or in this one when one is enough."""
    processes = min(processes, len(clips))
    if processes < 2:
        yield from make_clips(root, clips=clips, **task)  # type: ignore[arg-type]
        return
    # As multiprocessing does: what this process imports from is where a worker does, too.
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    code += "from dcase_coherence.soundscapes.worker import main; main()"
    # A worker has one core to itself, so threads of its own would only be in the way.
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **one_thread}
    reading, writing = os.pipe()
    workers: list[subprocess.Popen] = []
    try:
        for number in range(processes):
            worker = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=writing,
                env=environment,
            )
            workers.append(worker)
            assert worker.stdin is not None
            share = {"out": str(root), **task, "clips": clips[number::processes]}
            worker.stdin.write(json.dumps(share).encode())
            worker.stdin.close()
        os.close(writing)
        with open(reading) as answers:
            for line in answers:
                message = json.loads(line)
                if message != DONE:
                    raise InputError(message)
                yield
        for worker in workers:
            if worker.wait() != 0:
                raise RuntimeError(
                    f"a worker ended with exit status {worker.returncode}; run the same command "
                    "again to go on from here, with fewer --processes if memory ran out"
                )
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def _write_tables(root: Path, counts: Mapping[str, int]) -> None:
    """Write the tables that are missing, once all clips are there."""
    for name, count in counts.items():
        subset = layout.SUBSETS[name]
        (root / subset.audio).mkdir(parents=True, exist_ok=True)
        if subset.table is not None and not (root / subset.table).exists():
            paths = [layout.annotation_path(root, subset, index) for index in range(count)]
            events = [layout.read_annotation(path) for path in paths]
            layout.write(root / subset.table, layout.table_bytes(subset, events))
        if subset.durations is not None and not (root / subset.durations).exists():
            layout.write(root / subset.durations, layout.durations_bytes(subset, count))
    shutil.rmtree(root / layout.ANNOTATIONS, ignore_errors=True)
