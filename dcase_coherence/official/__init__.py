"""The official DCASE Task 4 code (DESED_task) with the coherence term.

`load_baseline` is imported on first use, so that who needs the errors alone starts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcase_coherence.official.trainers import load_baseline

__all__ = ["load_baseline"]


def __getattr__(name: str) -> Any:
    if name != "load_baseline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dcase_coherence.official import trainers

    return trainers.load_baseline
