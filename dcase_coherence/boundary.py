"""Weights of frames near label changes, for the cross-entropy of strong labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def boundary_weights(
    labels: Tensor, weight: float = 2.0, *, frames: int = 3, dim: int = 1
) -> Tensor:
    """Weigh the frames on both sides of each label change.

    Class by class: the change of one does not weigh another. It is the control that the term is
    compared to, mere attention to boundaries, and a plain form of the weighted cross-entropy of
    Song (2024, arXiv:2403.13254).

    Args:
        labels: `(batch, frames, classes)`, hard, bool or soft.
        weight: of the frames near a change; all others have 1.
        frames: so many on each side of a change are near it.
        dim: axis of the frames: 1, or -1 for labels `(batch, classes, frames)` as DESED_task
            has them.

    Returns:
        Weights in the shape of the labels, for the `weight` of
        `torch.nn.functional.binary_cross_entropy`.

    Raises:
        ValueError: when the labels have no three axes, the weight is not above 0 and finite, or
            `frames` is no whole number of at least 1.

    Example:
        >>> labels = torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]).reshape(1, 8, 1)
        >>> boundary_weights(labels, 2.0).flatten()
        tensor([1., 1., 2., 2., 2., 2., 2., 2.])
    """
    if labels.dim() != 3:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; they must be (batch, frames, classes), "
            "or (batch, classes, frames) with dim=-1"
        )
    if not 0 < weight < math.inf:
        raise ValueError(f"weight is {weight}; it must be a finite number above 0")
    if int(frames) != frames or frames < 1:
        raise ValueError(f"frames is {frames}; it must be a whole number of at least 1")
    frames = int(frames)
    dtype = labels.dtype if labels.is_floating_point() else torch.get_default_dtype()
    rows = labels.transpose(dim, -1)
    if rows.size(-1) < 2 or not labels.numel():  # a batch may have no strong rows
        return torch.ones_like(labels, dtype=dtype)
    changes = (rows[..., 1:] != rows[..., :-1]).float()
    # Frame t lies beside the changes t - frames to t + frames - 1, a change into t + 1 being t.
    near = F.max_pool1d(F.pad(changes, (frames, frames)), 2 * frames, 1).to(dtype)
    return (1 + (weight - 1) * near).transpose(dim, -1)
