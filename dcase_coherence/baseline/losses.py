"""The cross-entropy of strong labels, by default the official mean; a control for the term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FRAMES = 3  # on each side of a label change


@torch.no_grad()
def boundary_weights(labels: Tensor, weight: float) -> Tensor:
    """Weights of frames: `weight` for the three on each side of a label change, else 1.

    Class by class: the change of one does not weigh another.

    Args:
        labels: `(batch, classes, frames)`, hard or soft.
        weight: of the frames near a change.

    Returns:
        `(batch, classes, frames)`.

    Example:
        >>> boundary_weights(torch.tensor([[[0.0, 0, 0, 0, 0, 1, 1, 1]]]), 2.0)
        tensor([[[1., 1., 2., 2., 2., 2., 2., 2.]]])
    """
    changes = (labels[..., 1:] != labels[..., :-1]).float()
    if not changes.size(-1):
        return torch.ones_like(labels)
    # Frame t lies beside the changes t - 3 to t + 2, counting the change into t + 1 as t.
    near = functional.max_pool1d(functional.pad(changes, (FRAMES, FRAMES)), 2 * FRAMES, 1)
    return torch.where(near > 0, weight, 1.0).to(labels.dtype)


def strong_loss(posteriors: Tensor, labels: Tensor, boundary_weight: float = 1.0) -> Tensor:
    """Mean binary cross-entropy of strong posteriors.

    Args:
        posteriors: `(batch, classes, frames)` in [0, 1].
        labels: the same shape.
        boundary_weight: of the frames near a label change, see :func:`boundary_weights`; with
            another weight than 1 a control that has nothing to do with coherence: mere attention
            to boundaries.
    """
    if boundary_weight == 1.0:
        return functional.binary_cross_entropy(posteriors, labels)
    weights = boundary_weights(labels, boundary_weight)
    return functional.binary_cross_entropy(posteriors, labels, weight=weights)
