"""Temporal coherence for sound event detection: the losses, the tap and the Lightning mixin."""

from __future__ import annotations

from dcase_coherence.annealing import LinearAnnealing
from dcase_coherence.functional import boundary_weights, label_transitions, transition_loss
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.loss import CoherenceLoss, HeadLoss, TransitionLoss, coherence_loss
from dcase_coherence.regularizer import CoherenceRegularizer
from dcase_coherence.tap import FeatureTap

__version__ = "0.1.0"

__all__ = [
    "CoherenceLoss",
    "CoherenceMixin",
    "CoherenceRegularizer",
    "FeatureTap",
    "HeadLoss",
    "LinearAnnealing",
    "TransitionLoss",
    "boundary_weights",
    "coherence_loss",
    "label_transitions",
    "transition_loss",
]


def __dir__() -> list[str]:
    """The public names alone, for completion."""
    return __all__
