"""Point a configuration at its data; generate them where it only describes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import filelock

from lab.baseline.config import nest_overrides
from lab.data.classes import in_order, settle_classes
from lab.data.desed import CLASSES, official_layout
from lab.errors import InputError
from lab.files import PathLike
from lab.soundscapes import generate
from lab.soundscapes.soundbank import RecordedSounds

KINDS = ("strong", "weak", "unlabelled", "validation", "test")
#: Clips of each kind that are generated where a few do.
FEW = 30


def place_data(
    config: dict[str, dict[str, Any]],
    folder: PathLike | None,
    generated: PathLike,
    *overrides: Mapping[str, Any],
    public: bool = False,
    few: bool = False,
    progress: bool = True,
) -> None:
    """Point a configuration at its data set; generate it where there is none but its description.

    Args:
        config: as :func:`load_config` returns it; its paths are replaced, and the classes and their
            number written into it, see :func:`lab.data.classes.settle_classes`.
        folder: a data set in the official layout; None for the paths of the configuration or,
            where its `soundscapes` ask for clips, generated ones.
        generated: where generated clips go.
        overrides: what `load_config` laid over the file: its paths stay in their place.
        public: generate a second test set too, of other clips, as `data.public_*`.
        few: generate at most 30 clips of each kind, in a folder of their own beside the whole set;
            a quick try hears two batches.
        progress: show the progress of the generation.

    Raises:
        InputError: the folder or a path among the overrides does not exist, or clips cannot be
            generated, for instance as they would have a class that is not in `data.classes`.
    """
    data = {k: v for one in overrides for k, v in nest_overrides(one).get("data", {}).items()}
    kept = {key: data[key] for key in official_layout("") if key in data}
    for key, path in kept.items():
        kind = "folder" if "_folder" in key else "file"
        if not (os.path.isdir(path) if kind == "folder" else os.path.isfile(path)):
            raise InputError(f"data.{key} is {path}, and there is no such {kind}; correct the path")
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"--data is {folder}, which is no folder; give a data set's folder")
    settings = config["soundscapes"]
    layout = {} if folder is None else official_layout(folder)
    if folder is None and settings["strong"]:
        _classes_to_generate(config)
        if few:
            generated = f"{os.fspath(generated)}_few"
            settings = {**settings, **{kind: min(settings[kind], FEW) for kind in KINDS}}
        Path(generated).parent.mkdir(parents=True, exist_ok=True)
        # Processes that train together all come here; the first one does the work.
        with filelock.FileLock(f"{os.fspath(generated)}.lock"):
            layout = official_layout(generate(generated, progress=progress, **settings))
            if public:
                others = dict.fromkeys(KINDS[:-1], 0)
                other = {**settings, **others, "seed": settings["seed"] + 1}
                second = generate(f"{os.fspath(generated)}_public", progress=progress, **other)
                paths = official_layout(second)
                for part in ("folder", "tsv", "dur"):
                    layout[f"public_{part}"] = paths[f"test_{part}"]
    config["data"].update({**layout, **kept})
    if "net" in config:
        settle_classes(config)


def _classes_to_generate(config: dict[str, dict[str, Any]]) -> None:
    """Take the classes from the soundbank: in a few clips not all of them may occur."""
    bank = config["soundscapes"]["soundbank"]
    there = list(CLASSES) if bank is None else RecordedSounds(bank).classes
    wanted = config["data"].get("classes")
    if wanted is None:
        config["data"]["classes"] = in_order(there)
        return
    unwanted = [name for name in there if name not in wanted]
    if unwanted:
        sounds = "the parametric sounds" if bank is None else f"soundscapes.soundbank {bank}"
        raise InputError(
            f"{sounds} would give clips with the class {unwanted[0]!r}, which is not in "
            f"data.classes ({', '.join(wanted)}); add it there, or take other sounds"
        )
