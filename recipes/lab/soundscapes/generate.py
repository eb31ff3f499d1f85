"""Generate a data set: processes, progress, resuming, and the tables at the end."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Iterator, Mapping

from lab.errors import InputError, resumable
from lab.files import PathLike, remove_left_over, write_whole
from lab.processes import over_files
from lab.soundscapes import layout
from lab.soundscapes.soundbank import ParametricSounds, RecordedSounds, Soundbank
from lab.soundscapes.worker import make_clip

# Raise it when clips of one seed come out differently, so that trees are not mixed.
FORMAT = 1
TRAINING_SPREAD = 0.7  # training sounds lack the outer part of each parameter's range


@resumable()
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
    validation_soundbank: PathLike | None = None,
    test_soundbank: PathLike | None = None,
    augment: bool = False,
    density: float = 1.0,
    in_domain: str | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Generate a data set of 10 s clips at 16 kHz in the baseline's layout; return its folder.

    A clip depends on the seed, its subset and its number alone: the files are the same for any
    number of processes. A run that was interrupted goes on where it stopped, and a data set that
    is complete is returned at once.

    Args:
        out: folder of the data set; new, empty, or made with the same settings.
        strong, weak, unlabelled: numbers of training clips; 3 % of the unlabelled ones are
            without any event.
        validation: number of strongly labelled clips like the training ones.
        test: number of strongly labelled clips with other parameters, rooms and channels.
        seed: non-negative.
        soundbank: folder of recordings, see :class:`lab.soundscapes.soundbank.RecordedSounds`,
            instead of the parametric sounds. Every fifth one goes to ``validation`` only.
        validation_soundbank: folder of recordings for ``validation``; then the training clips
            take all recordings of ``soundbank``.
        test_soundbank: folder of recordings for ``test``; ``soundbank`` when None.
        augment: change the sounds of the training clips (strong, weak, unlabelled), see
            :mod:`lab.soundscapes.augmentation`, and put half of the clips in a room. Validation
            and test clips stay as they are, so that an epoch is chosen, and a system judged, on
            sounds as they were recorded.
        density: factor on the number of classes in a training clip (1.6 in the mean), 1 to 3.
        in_domain: which clips are recorded in rooms, through channels and at levels like those of
            the test clips (the middle of their ranges): ``"weak"`` for weak and unlabelled ones,
            as in DESED, where they come from where its test clips come from; ``"all"`` for the
            strong and validation ones too; None for none.
        processes: as many as there are cores when None.
        progress: show a progress bar, if standard error is a terminal.

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
    for name, value in (*counts.items(), ("seed", seed)):
        if value < 0:
            raise InputError(f"--{name} is {value}; give a whole number of at least 0")
    if processes is not None and processes < 1:
        raise InputError(f"--processes is {processes}; give a whole number of at least 1")
    if not 1 <= density <= 3:
        raise InputError(f"--density is {density}; give a number from 1 to 3")
    for part, folder in (("validation", validation_soundbank), ("test", test_soundbank)):
        if folder is not None and soundbank is None:
            raise InputError(
                f"--{part}-soundbank {folder} needs --soundbank: training clips cannot be "
                f"parametric when {part} clips are recorded"
            )
    banks = [
        None if folder is None else RecordedSounds(folder)
        for folder in (soundbank, validation_soundbank, test_soundbank)
    ]
    _refuse_other_classes(banks)
    fingerprints = [None if bank is None else bank.fingerprint() for bank in banks]
    root = Path(out)
    settings: dict[str, object] = {
        "format": FORMAT,
        "seed": seed,
        **counts,
        **dict(zip(("soundbank", "validation_soundbank", "test_soundbank"), fingerprints)),
        "augment": augment,
        "density": float(density),
        "in_domain": in_domain,
    }
    _claim(root, settings)
    remove_left_over(root)
    make = functools.partial(
        make_clip,
        out=root.resolve(),
        seed=seed,
        sources=_sources(*banks),
        augment=augment,
        density=float(density),
        in_domain=in_domain,
    )
    clips = list(_missing_clips(root, counts))
    title = "soundscapes" if progress else None
    for _ in over_files(make, clips, processes=processes, at_least=1, progress=title):
        pass
    _write_tables(root, counts)
    return root


def _sources(
    bank: RecordedSounds | None, validation: RecordedSounds | None, test: RecordedSounds | None
) -> dict[str, Soundbank]:
    """Where the sounds of each part of the data set come from."""
    if bank is None:
        train = ParametricSounds(TRAINING_SPREAD)
        return {"train": train, "validation": train, "test": ParametricSounds(1.0)}
    return {
        "train": RecordedSounds(bank.folder, "train") if validation is None else bank,
        "validation": validation or RecordedSounds(bank.folder, "validation"),
        "test": test or bank,
    }


def _refuse_other_classes(banks: list[RecordedSounds | None]) -> None:
    """Raise where the soundbanks of a data set differ in their classes."""
    recorded = [bank for bank in banks if bank is not None]
    for bank in recorded[1:]:
        different = sorted(set(recorded[0].classes) ^ set(bank.classes))
        if different:
            pair = recorded[0], bank
            has, lacks = pair if different[0] in pair[0].classes else pair[::-1]
            raise InputError(
                f"the soundbank {has.folder} has the class {different[0]!r} and {lacks.folder} "
                "has not; give soundbanks of the same classes"
            )


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
            made_with = dict(json.loads(manifest.read_text()))
            differing = [key for key in settings if made_with.get(key) != settings[key]]
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"{manifest} cannot be read ({error}); give another --out") from None
        if differing:
            key = differing[0]
            there, wanted = (
                "none" if value is None else value for value in (made_with.get(key), settings[key])
            )
            raise InputError(
                f"{root} was made with {key} {there}, not {wanted}; give another --out, or the "
                f"settings in {manifest}"
            )
        return
    write_whole(manifest, (json.dumps(settings, indent=2) + "\n").encode())


def _missing_clips(root: Path, counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """List the clips that are missing, or whose events are neither kept nor in the table."""
    for name, count in counts.items():
        subset = layout.SUBSETS[name]
        tabled = subset.table is None or (root / subset.table).exists()
        folder = root / subset.audio
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        for index in range(count):
            kept = tabled or layout.rows_path(root, subset, index).exists()
            if not (kept and subset.filename(index) in there):
                yield name, index


def _write_tables(root: Path, counts: Mapping[str, int]) -> None:
    """Write the tables that are missing, once all clips are there."""
    for name, count in counts.items():
        subset = layout.SUBSETS[name]
        (root / subset.audio).mkdir(parents=True, exist_ok=True)
        if subset.table is not None and not (root / subset.table).exists():
            paths = (layout.rows_path(root, subset, index) for index in range(count))
            rows = "".join(path.read_text(encoding="utf-8") for path in paths)
            write_whole(root / subset.table, layout.header(subset) + rows)
        if subset.durations is not None and not (root / subset.durations).exists():
            write_whole(root / subset.durations, layout.durations(subset, count))
    shutil.rmtree(root / layout.ANNOTATIONS, ignore_errors=True)
