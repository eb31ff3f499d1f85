"""The cross-entropy of strong labels, by default the official mean; a control for the term."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dcase_coherence.boundary import boundary_weights


def strong_loss(posteriors: Tensor, labels: Tensor, boundary_weight: float = 1.0) -> Tensor:
    """Mean binary cross-entropy of strong posteriors.

    Args:
        posteriors: `(batch, classes, frames)` in [0, 1].
        labels: the same shape.
        boundary_weight: of the three frames on each side of a label change, see
            :func:`dcase_coherence.boundary_weights`; with another weight than 1 a control that
            has nothing to do with coherence: mere attention to boundaries.
    """
    if boundary_weight == 1.0:
        return functional.binary_cross_entropy(posteriors, labels)
    weights = boundary_weights(labels, boundary_weight, dim=-1)
    return functional.binary_cross_entropy(posteriors, labels, weight=weights)
