"""Temporal coherence for sound event detection: the loss, the tap and the Lightning mixin."""

from dcase_coherence.annealing import ExponentialAnnealing, LinearAnnealing
from dcase_coherence.functional import coherence_loss, label_transitions
from dcase_coherence.lightning import CoherenceMixin
from dcase_coherence.loss import CoherenceLoss
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
    "coherence_loss",
    "label_transitions",
]
