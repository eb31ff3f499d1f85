"""Point a configuration at its data; generate them where it only describes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import filelock

from dcase_coherence.baseline.config import nest_overrides
from dcase_coherence.data.desed import official_layout
from dcase_coherence.soundscapes import generate
from dcase_coherence.system.errors import InputError
from dcase_coherence.system.files import PathLike


def place_data(
    config: dict[str, dict[str, Any]],
    folder: PathLike | None,
    generated: PathLike,
    *overrides: Mapping[str, Any],
    public: bool = False,
    progress: bool = True,
) -> None:
    """Point a configuration at its data set; generate it where there is none but its description.

    Args:
        config: as :func:`load_config` returns it; the paths under `data` are replaced.
        folder: a data set in the official layout; None for the paths of the configuration or,
            where its `soundscapes` ask for clips, generated ones.
        generated: where generated clips go.
        overrides: what `load_config` laid over the file: its paths stay in their place.
        public: generate a second test set too, of other clips, as `data.public_*`.
        progress: show the progress of the generation.

    Raises:
        InputError: the folder or a path among the overrides does not exist, or clips cannot be
            generated.
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
    second = None
    if folder is None and settings["strong"]:
        Path(generated).parent.mkdir(parents=True, exist_ok=True)
        # Processes that train together all come here; the first one does the work.
        with filelock.FileLock(f"{os.fspath(generated)}.lock"):
            folder = generate(generated, progress=progress, **settings)
            if public:
                test_only = dict.fromkeys(("strong", "weak", "unlabelled", "validation"), 0)
                other = {**settings, **test_only, "seed": settings["seed"] + 1}
                second = generate(f"{os.fspath(generated)}_public", progress=progress, **other)
    if folder is not None:
        config["data"].update({**official_layout(folder), **kept})
    if second is not None:
        paths = official_layout(second)
        config["data"].update(
            {f"public_{part}": paths[f"test_{part}"] for part in ("folder", "tsv", "dur")}
        )
        config["data"].update(kept)
