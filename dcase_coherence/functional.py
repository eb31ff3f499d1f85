"""Label changes, and what is made of them, as functions of labels and posteriors."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def label_transitions(labels: Tensor, *, lag: int = 1, tolerance: float = 0.0) -> Tensor:
    """Mark the frames at which the labels change: the indicator of eq. (3).

    A transition is counted when any class starts or stops, whatever the others do.

    Args:
        labels: hard or soft labels, `(batch, frames, classes)`.
        lag: how many frames the two rows of labels are apart.
        tolerance: a class counts as changed when it moves by more than this.

    Returns:
        bool `(batch, frames - lag)`; element `t` is the step from frame `t` to frame `t + lag`.

    Raises:
        ValueError: when labels are not three-dimensional or hold NaN.

    Example:
        >>> labels = torch.tensor([[[0.0], [1.0], [1.0], [0.0]]])
        >>> label_transitions(labels), label_transitions(labels, lag=3)
        (tensor([[ True, False,  True]]), tensor([[False]]))
    """
    check_axes("labels", labels, "classes")
    if not labels.is_floating_point():
        labels = labels.to(torch.int64)
    elif bool(torch.isnan(labels).any()):
        raise ValueError("labels hold NaN; every frame needs a number for every class")
    return ((labels[:, lag:] - labels[:, :-lag]).abs() > tolerance).any(dim=-1)


def transition_loss(
    posteriors: Tensor,
    labels: Tensor,
    *,
    lags: Sequence[int] = (1, 2, 4),
    valid: Tensor | None = None,
    dim: int | None = None,
) -> Tensor:
    r"""Transitions of posteriors, held to those of the labels: eq. (3) with an optimum.

    .. math:: \frac{1}{|K|} \sum_{k \in K} \frac{1}{N} \sum_{i, t, c}
              \big((p_t - p_{t-k}) - (y_t - y_{t-k})\big)^2

    It is at least 0, and 0 only where p - y stays constant over time.

    Args:
        posteriors: p in [0, 1], `(batch, frames, classes)`.
        labels: y, in the same shape, hard or soft. No gradient flows to them.
        lags: how many frames apart two frames are compared, K. A lag as long as the clip or longer
            has no pair and counts 0.
        valid: bool `(batch, frames)`, False for padding. Pairs that span some never count.
        dim: axis of the frames: 1, or -1 for `(batch, classes, frames)`. By default 1, unless
            there are fewer frames than classes: then it has to be told.

    Returns:
        A scalar, at least float32: the mean over lags of the sum over N = batch x frames x
        classes elements, as in a mean cross-entropy.

    Raises:
        ValueError: for shapes that do not fit or lags that are no whole numbers of at least 1.

    Example:
        >>> y = torch.tensor([[[0.0], [1.0], [1.0], [0.0]]])
        >>> transition_loss(y, y), transition_loss(0.5 * y, y, lags=(1,))
        (tensor(0.), tensor(0.1250))
    """
    check_lags(lags)
    posteriors, labels = frames_first(posteriors, labels, dim)
    check_pair("posteriors", posteriors, labels, valid)
    p = without_padding(posteriors, valid)
    error = p - without_padding(labels.detach().to(p.dtype), valid)
    total = error.new_zeros(())
    for lag in lags:
        step = (error[:, lag:] - error[:, :-lag]).pow(2).sum(dim=-1)
        if valid is not None:
            step = step.masked_fill(~counted_pairs(valid, lag=lag), 0.0)
        total = total + step.sum()
    return total / (label_elements(labels, valid) * len(lags))


@torch.no_grad()
def boundary_weights(
    labels: Tensor,
    weight: float = 2.0,
    *,
    frames: int = 3,
    valid: Tensor | None = None,
    dim: int | None = None,
) -> Tensor:
    """Weigh the frames on both sides of each label change.

    Class by class: the change of one does not weigh another. A plain form of the weighted
    cross-entropy of Song (2024, arXiv:2403.13254).

    Args:
        labels: `(batch, frames, classes)`, hard, bool or soft.
        weight: of the frames near a change; all others have 1.
        frames: so many on each side of a change are near it.
        valid: bool `(batch, frames)`, False for padding, in and into which nothing changes.
        dim: axis of the frames, see :func:`transition_loss`.

    Returns:
        Weights in the shape of the labels, for the `weight` of
        `torch.nn.functional.binary_cross_entropy`.

    Raises:
        ValueError: when the labels have no three axes or may be transposed, the weight is not
            above 0 and finite, or `frames` is no whole number of at least 1.

    Example:
        >>> labels = torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]).reshape(1, 8, 1)
        >>> boundary_weights(labels, 2.0).flatten()
        tensor([1., 1., 2., 2., 2., 2., 2., 2.])
    """
    if not 0 < weight < math.inf:
        raise ValueError(f"weight is {weight}; it must be a finite number above 0")
    if int(frames) != frames or frames < 1:
        raise ValueError(f"frames is {frames}; it must be a whole number of at least 1")
    frames = int(frames)
    dtype = labels.dtype if labels.is_floating_point() else torch.get_default_dtype()
    axis = axis_of_frames(labels, dim)
    rows = labels.transpose(axis, -1)
    if rows.size(-1) < 2 or not labels.numel():  # a batch may have no strong rows
        return torch.ones_like(labels, dtype=dtype)
    changes = rows[..., 1:] != rows[..., :-1]
    if valid is not None:
        changes = changes & counted_pairs(valid).unsqueeze(1)
    # Frame t lies beside the changes t - frames to t + frames - 1, a change into t + 1 being t.
    near = F.max_pool1d(F.pad(changes.float(), (frames, frames)), 2 * frames, 1).to(dtype)
    return (1 + (weight - 1) * near).transpose(axis, -1)


def counted_pairs(valid: Tensor, *, lag: int = 1) -> Tensor:
    """Mark the pairs of frames `lag` apart that are valid, with all frames between them."""
    gaps = (~valid).cumsum(dim=1)
    return valid[:, :-lag] & (gaps[:, lag:] == gaps[:, :-lag])


def label_elements(labels: Tensor, valid: Tensor | None) -> int:
    """Count the label elements that a mean is over, batch x frames x classes; at least 1."""
    elements = labels.numel() if valid is None else int(valid.sum()) * labels.shape[-1]
    return max(elements, 1)


def without_padding(values: Tensor, valid: Tensor | None) -> Tensor:
    """Values `(batch, frames, ...)`, at least float32, with 0 in padding."""
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()  # under autocast: the square of 256 overflows half precision
    # Before anything is computed: a mask of the result would pass NaN to the gradient.
    return values if valid is None else values.masked_fill(~valid.unsqueeze(-1), 0)


def axis_of_frames(labels: Tensor, dim: int | None) -> int:
    """Axis of the frames: the one that is told, or 1 where the shape leaves no doubt."""
    check_axes("labels", labels, "classes")
    if dim not in (None, 1, 2, -1):
        raise ValueError(f"dim is {dim}; it must be 1, or -1 for (batch, classes, frames)")
    if dim is None and labels.shape[1] < labels.shape[2]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, by which (batch, frames, classes) would "
            f"have {labels.shape[1]} frames of {labels.shape[2]} classes; give dim=-1 if they are "
            "(batch, classes, frames), or dim=1 if they are not"
        )
    return 1 if dim is None else dim


def frames_first(posteriors: Tensor, labels: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """Posteriors and labels as `(batch, frames, classes)`; see :func:`axis_of_frames`."""
    check_axes("posteriors", posteriors, "classes")
    if axis_of_frames(labels, dim) == 1:
        return posteriors, labels
    return posteriors.transpose(1, 2), labels.transpose(1, 2)


def check_lags(lags: Sequence[int]) -> None:
    """Check that lags are a list of different whole numbers of at least 1."""
    whole = isinstance(lags, (list, tuple)) and all(type(lag) is int and lag >= 1 for lag in lags)
    if not whole or not lags or len(set(lags)) < len(lags):
        raise ValueError(
            f"lags is {lags!r}; it must be a list of different whole numbers of at least 1, "
            "for instance (1, 2, 4)"
        )


def check_axes(name: str, tensor: Tensor, last: str) -> None:
    """Check that a tensor has the axes `(batch, frames, last)`."""
    if tensor.dim() != 3:
        raise ValueError(
            f"{name} have shape {tuple(tensor.shape)}; they must be (batch, frames, {last})"
        )


def check_pair(
    name: str, features: Tensor, labels: Tensor, valid: Tensor | None, last: str = "classes"
) -> None:
    """Check that features or posteriors, labels and the mask of valid frames belong together."""
    check_axes(name, features, last)
    check_axes("labels", labels, "classes")
    if not features.is_floating_point():
        raise ValueError(f"{name} are {features.dtype}; they must be floating point")
    axes = 3 if last == "classes" else 2
    ours, theirs = tuple(features.shape[:axes]), tuple(labels.shape[:axes])
    if ours != theirs:
        raise ValueError(
            f"{name} have ({', '.join(('batch', 'frames', 'classes')[:axes])}) = {ours} but labels "
            f"have {theirs}; they must be equal{transposed_hint(features, labels)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != labels.shape[:2]):
        raise ValueError(
            f"valid is {valid.dtype} of shape {tuple(valid.shape)}; it must be bool of shape "
            f"(batch, frames) = {tuple(labels.shape[:2])}"
        )


def transposed_hint(features: Tensor, labels: Tensor) -> str:
    """What to transpose, where the frames, give or take one, turn up in another axis."""
    if features.shape[1] == labels.shape[1]:
        return ""
    if abs(features.shape[1] - labels.shape[2]) <= 1:
        return "; labels seem to be (batch, classes, frames): give labels.transpose(1, 2)"
    if abs(features.shape[2] - labels.shape[1]) <= 1:
        return (
            "; features seem to be (batch, dims, frames): give features.transpose(1, 2), or a tap "
            "the layout of the output (layout='bdt')"
        )
    return "; compare the pooling over time of the network with that of the labels"
