"""DESED: its classes and where its files are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.files import PathLike

#: The ten classes of DESED, in the order of the network's outputs.
CLASSES = (
    "Alarm_bell_ringing",
    "Blender",
    "Cat",
    "Dishes",
    "Dog",
    "Electric_shaver_toothbrush",
    "Frying",
    "Running_water",
    "Speech",
    "Vacuum_cleaner",
)


def official_layout(data_dir: PathLike) -> dict[str, str]:
    """Paths of the `data:` section for a data set in the official layout.

    Args:
        data_dir: the folder with `audio` and `metadata` in it.
    """
    audio = Path(data_dir, "audio")
    metadata = Path(data_dir, "metadata")
    synthetic = "synthetic21_train"
    validation = "synthetic21_validation"
    folders = {
        "synth_folder": audio / "train" / synthetic / "soundscapes",
        "weak_folder": audio / "train" / "weak",
        "unlabeled_folder": audio / "train" / "unlabel_in_domain",
        "synth_val_folder": audio / "validation" / validation / "soundscapes",
        "test_folder": audio / "validation" / "validation",
        "eval_folder": audio / "eval21",
        "public_folder": audio / "eval" / "public",
    }
    tables = {
        "synth_tsv": metadata / "train" / synthetic / "soundscapes.tsv",
        "weak_tsv": metadata / "train" / "weak.tsv",
        "synth_val_tsv": metadata / "validation" / validation / "soundscapes.tsv",
        "synth_val_dur": metadata / "validation" / validation / "durations.tsv",
        "test_tsv": metadata / "validation" / "validation.tsv",
        "test_dur": metadata / "validation" / "validation_durations.tsv",
        "public_tsv": metadata / "eval" / "public.tsv",
        "public_dur": metadata / "eval" / "public_durations.tsv",
    }
    paths = {name: f"{path}_16k" for name, path in folders.items()}
    paths.update({f"{name}_44k": str(path) for name, path in folders.items()})
    paths.update({name: str(path) for name, path in tables.items()})
    return paths
