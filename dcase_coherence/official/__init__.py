"""The official DCASE Task 4 code (DESED_task) with the coherence term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcase_coherence.official.trainers import load_baseline

__all__ = ["load_baseline"]


def __getattr__(name: str) -> Any:
    # On first use: the commands of the recipes import the errors alone.
    if name != "load_baseline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dcase_coherence.official import trainers

    return trainers.load_baseline
