"""Did a data set change? A digest of its tables and of the names and sizes of its clips."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any, Mapping

from lab.data.annotations import read_filenames
from lab.data.audio import audio_names
from lab.errors import InputError


def set_digests(config: Mapping[str, Any], *, public: bool = False) -> dict[str, str | None]:
    """Digests of the data that a run is trained, tested and, with `public`, tested again on.

    Args:
        config: of the training.
        public: give that of `data.public_*`, too.

    Returns:
        By name: `training` (with the validation, by which epochs are chosen), `test`, `public`;
        None where a table, folder or clip is missing, which the run itself says.
    """
    data, training = config["data"], config["training"]
    _, weak, unlabelled = training["batch_size"]
    valid = "test" if training["select_on"] == "test" else "synth_val"
    parts = ["synth", *["weak"] * bool(weak), *["unlabeled"] * bool(unlabelled), valid]
    sets = {"training": parts, "test": ["test"], **({"public": ["public"]} if public else {})}
    return {
        name: digest(
            tuple(
                tuple(data.get(f"{part}_{kind}") for kind in ("folder", "tsv", "dur"))
                for part in parts
            )
        )
        for name, parts in sets.items()
    }


@functools.lru_cache(maxsize=None)
def digest(parts: tuple[tuple[str | None, ...], ...]) -> str | None:
    """Digest of parts (folder, table, durations; None where there is none), or None.

    It is kept, for the trials of a run share their data: `digest.cache_clear()` where files may
    have changed.
    """
    total = hashlib.blake2b(digest_size=16)
    try:
        for folder, table, durations in parts:
            for path in filter(None, (table, durations)):
                total.update(Path(path).read_bytes())
            names = audio_names(str(folder)) if table is None else read_filenames(table)
            for name in names:
                size = os.stat(os.path.join(str(folder), name)).st_size
                total.update(os.fsencode(f"{name}\0{size}\n"))
    except (OSError, InputError):
        return None
    return total.hexdigest()
