"""Temporal coherence for sound event detection: the loss, the tap and the Lightning mixin.

The names below are imported on first use, so that parts without torch start quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcase_coherence.annealing import ExponentialAnnealing, LinearAnnealing
    from dcase_coherence.boundary import boundary_weights
    from dcase_coherence.functional import coherence_loss, label_transitions
    from dcase_coherence.lightning import CoherenceMixin
    from dcase_coherence.loss import CoherenceLoss
    from dcase_coherence.pseudo import PseudoRows, pseudo_labels
    from dcase_coherence.regularizer import CoherenceRegularizer
    from dcase_coherence.tap import FeatureTap

__version__ = "0.1.0"

__all__ = [
    "CoherenceLoss",
    "CoherenceMixin",
    "CoherenceRegularizer",
    "ExponentialAnnealing",
    "FeatureTap",
    "LinearAnnealing",
    "PseudoRows",
    "boundary_weights",
    "coherence_loss",
    "label_transitions",
    "pseudo_labels",
]

_MODULES = {
    "CoherenceLoss": "loss",
    "CoherenceMixin": "lightning",
    "CoherenceRegularizer": "regularizer",
    "ExponentialAnnealing": "annealing",
    "FeatureTap": "tap",
    "LinearAnnealing": "annealing",
    "PseudoRows": "pseudo",
    "boundary_weights": "boundary",
    "coherence_loss": "functional",
    "label_transitions": "functional",
    "pseudo_labels": "pseudo",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES.values():
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
