"""Temporal coherence as functions of features and labels (eq. 3 of the paper)."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

REDUCTIONS = ("mean", "sum", "none")


def check_settings(
    alpha1: float,
    alpha2: float,
    reduction: str,
    margin: float | None,
    tolerance: float,
    lags: Sequence[int] = (1,),
) -> None:
    """Check the settings of the loss.

    Raises:
        ValueError: when one of them is out of its range; the message names it and its value.
    """
    for name, value in (("alpha1", alpha1), ("alpha2", alpha2), ("tolerance", tolerance)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it must be one of {', '.join(REDUCTIONS)}")
    if margin is not None and not margin > 0:
        raise ValueError(f"margin is {margin}; it must be above 0, or None for the exact loss")
    whole = isinstance(lags, (list, tuple)) and all(
        isinstance(lag, int) and not isinstance(lag, bool) and lag >= 1 for lag in lags
    )
    if not whole or not lags or len(set(lags)) < len(lags):
        raise ValueError(
            f"lags is {lags!r}; it must be a list of different whole numbers of at least 1, "
            "for instance (1, 2, 4)"
        )


def check_labels(labels: Tensor) -> None:
    """Check that labels have the axes `(batch, frames, classes)`.

    Raises:
        ValueError: when they have another number of them.
    """
    if labels.dim() != 3:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; they must be (batch, frames, classes)"
        )


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
        >>> label_transitions(labels)
        tensor([[ True, False,  True]])
        >>> label_transitions(labels, lag=3)
        tensor([[False]])
    """
    check_labels(labels)
    if labels.is_floating_point() and bool(torch.isnan(labels).any()):
        raise ValueError("labels hold NaN; every frame needs a number for every class")
    if not labels.is_floating_point():
        labels = labels.to(torch.int64)
    return ((labels[:, lag:] - labels[:, :-lag]).abs() > tolerance).any(dim=-1)


def comparable_features(
    features: Tensor,
    *,
    center: bool = False,
    normalize: bool = False,
    valid: Tensor | None = None,
) -> Tensor:
    """Bring the features into the form in which the loss compares frames, at least in float32.

    Args:
        features: z, `(batch, frames, dims)`.
        center: take the mean over all valid frames of the batch off. Where several processes
            train one model (torch.distributed), it is the mean over the frames of all of them;
            each has to make the call, and the backward pass, as with batch normalisation.
        normalize: scale every frame to unit norm, so that a squared distance lies in [0, 4].
        valid: bool `(batch, frames)`, False for padding, which is replaced and never counts.

    Returns:
        `(batch, frames, dims)`, float32 (float64 for float64 features).

    Example:
        >>> z = torch.tensor([[[1.0, 0.0], [1.0, 4.0]]])
        >>> comparable_features(z, center=True, normalize=True)
        tensor([[[ 0., -1.],
                 [ 0.,  1.]]])
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        # Under autocast z is half precision, whose squares overflow at |z| of 256.
        features = features.float()
    if valid is not None:
        # Filled before the difference: masking after it would still pass NaN to the gradient.
        features = features.masked_fill(~valid.unsqueeze(-1), 0.0)
    if center:
        features = features - _mean_frame(features, valid)
    if normalize:
        features = F.normalize(features, dim=-1, eps=1e-6)
    return features


def _mean_frame(features: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid frames of all processes, `(dims,)`; its gradient reaches all of them."""
    shape = features.shape[:2]
    frames = shape[0] * shape[1] if valid is None else valid.sum()
    total = torch.cat([features.sum(dim=(0, 1)), features.new_ones(1) * frames])
    if several_processes():
        from torch.distributed.nn.functional import all_reduce

        total = all_reduce(total)
    return total[:-1] / total[-1].clamp(min=1)


def several_processes() -> bool:
    """Whether torch.distributed joins this process to others."""
    group = torch.distributed
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)


def transition_distances(features: Tensor, *, lag: int = 1) -> Tensor:
    """Squared Euclidean distance between frames `lag` apart, as :func:`comparable_features` are.

    Args:
        features: z, `(batch, frames, dims)`.
        lag: how many frames apart.

    Returns:
        `(batch, frames - lag)`; element `t` is from frame `t` to frame `t + lag`.

    Example:
        >>> transition_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
        tensor([[25.]])
    """
    return (features[:, lag:] - features[:, :-lag]).pow(2).sum(dim=-1)


def counted_pairs(valid: Tensor, *, lag: int = 1) -> Tensor:
    """Mark the pairs of frames `lag` apart that lie, with all frames between them, in valid ones.

    Args:
        valid: bool `(batch, frames)`, False for padding.
        lag: how many frames apart.

    Returns:
        bool `(batch, frames - lag)`.

    Example:
        >>> counted_pairs(torch.tensor([[True, True, False, True, True, True]]), lag=2)
        tensor([[False, False, False,  True]])
    """
    gaps = (~valid).cumsum(dim=1)
    return valid[:, :-lag] & (gaps[:, lag:] == gaps[:, :-lag])


def coherence_loss(
    features: Tensor,
    labels: Tensor,
    alpha1: float = 0.1,
    alpha2: float = 0.03,
    *,
    lags: Sequence[int] = (1,),
    reduction: str = "mean",
    margin: float | None = None,
    normalize: bool = False,
    center: bool = False,
    tolerance: float = 0.0,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Temporal coherence loss: stable features inside events, a jump at their boundaries.

    .. math:: \frac{1}{|K|} \sum_{k \in K} \Big[
              -\alpha_1 \sum_{y_t \ne y_{t-k}} \|z_t - z_{t-k}\|_2^2
              + \alpha_2 \sum_{y_t = y_{t-k}} \|z_t - z_{t-k}\|_2^2 \Big]

    With the lags K = {1}, the default, this is eq. (3) of Kothinti & Elhilali, *Temporal
    contrastive-loss for audio event detection*. The paper adds this sum to a cross-entropy summed
    over clips, frames and classes; beside the usual cross-entropy *averaged* over them,
    `reduction="mean"` divides by the same number of label elements, the same for every lag, and so
    keeps the paper's ratio of the two.

    Lag 1 cannot tell a step of z at a label change, which the paper means, from a pulse there.
    Lag k rewards a step k times at each boundary and a pulse once, so with several lags and
    alpha1 <= alpha2 steps pay and pulses do not (docs/paper_notes.md works it out).

    Args:
        features: z, the output of the convolutional layers, `(batch, frames, dims)`.
        labels: y, `(batch, frames, classes)`, hard or soft. No gradient flows to them.
        alpha1: weight of the distances at label changes (pushed apart).
        alpha2: weight of the distances elsewhere (pulled together).
        lags: how many frames apart two frames are compared, whole numbers of at least 1. The loss
            is the mean over the lags; a lag as long as the clip or longer has no pair and counts
            0. A pair is a boundary when the labels of its two frames differ. `(1,)` is the paper's.
        reduction: `"mean"` over label elements (batch x frames x classes), `"sum"`, or `"none"`
            for the signed, weighted distance of each transition; with several lags, of all pairs
            that end at its later frame, averaged over the lags (a pair that would begin before
            the clip counts 0), so that its sum is that of `"sum"`.
        margin: boundary distances (squared) saturate here, which bounds the loss from below;
            None is the paper's.
        normalize: use unit-norm features; False is the paper's.
        center: take the mean over the valid frames of the batch off the features, before
            `normalize`; alone it changes nothing. In several processes (torch.distributed) it is
            the mean of them all, see :func:`comparable_features`.
        tolerance: a soft label counts as changed when it moves by more than this.
        valid: bool `(batch, frames)`, False for padding. Padding frames, and pairs that begin in,
            end in or span one, never count, whatever the features or labels there.

    Returns:
        A scalar, or `(batch, frames - 1)` for `reduction="none"`. Without any transition (an
        empty batch, a single frame, nothing valid) the loss is 0.

    Raises:
        ValueError: for shapes that do not fit, NaN labels, a negative alpha, a lag that is no
            whole number of at least 1, an unknown reduction or a margin that is not positive.

    Example:
        >>> z = torch.tensor([[[0.0], [2.0], [3.0]]])
        >>> y = torch.tensor([[[0.0], [1.0], [1.0]]])
        >>> coherence_loss(z, y, alpha1=0.5, alpha2=0.25, reduction="none")
        tensor([[-2.0000,  0.2500]])
        >>> coherence_loss(z, y, alpha1=0.5, alpha2=0.25, reduction="sum")
        tensor(-1.7500)
        >>> coherence_loss(z, y, alpha1=0.5, alpha2=0.25, reduction="sum", lags=(1, 2))
        tensor(-3.1250)
    """
    check_settings(alpha1, alpha2, reduction, margin, tolerance, lags)
    _check_pair(features, labels, valid)

    labels = labels.detach()
    if valid is not None:
        labels = labels.masked_fill(~valid.unsqueeze(-1), 0)
    features = comparable_features(features, center=center, normalize=normalize, valid=valid)

    transitions = max(labels.shape[1] - 1, 0)
    terms = []
    for lag in lags:
        boundary = label_transitions(labels, lag=lag, tolerance=tolerance)
        distances = transition_distances(features, lag=lag)
        repelled = distances if margin is None else distances.clamp(max=margin)
        pairs = torch.where(boundary, -alpha1 * repelled, alpha2 * distances)
        if valid is not None:
            pairs = pairs.masked_fill(~counted_pairs(valid, lag=lag), 0.0)
        # Each pair at the transition into its later frame.
        terms.append(F.pad(pairs, (transitions - pairs.shape[1], 0)))
    mean = sum(terms[1:], terms[0]) / len(lags)

    if reduction == "none":
        return mean
    total = mean.sum()
    if reduction == "sum":
        return total
    elements = labels.numel() if valid is None else int(valid.sum()) * labels.shape[-1]
    return total / max(elements, 1)


def transposed_hint(features: Tensor, labels: Tensor, apart: int = 0) -> str:
    """What to transpose where frames are found in the axis of the classes or of the dims.

    Args:
        features: `(batch, frames, dims)`, as they should be.
        labels: `(batch, frames, classes)`, as they should be.
        apart: how many frames the two may differ by.

    Returns:
        The end of a sentence, or nothing.

    Example:
        >>> transposed_hint(torch.zeros(2, 50, 8), torch.zeros(2, 10, 50))
        '; labels seem to be (batch, classes, frames): give labels.transpose(1, 2)'
    """
    if features.shape[1] == labels.shape[1]:
        return ""
    if abs(features.shape[1] - labels.shape[2]) <= apart:
        return "; labels seem to be (batch, classes, frames): give labels.transpose(1, 2)"
    if abs(features.shape[2] - labels.shape[1]) <= apart:
        return (
            "; features seem to be (batch, dims, frames): give features.transpose(1, 2), or a tap "
            "the layout of the output (layout='bdt')"
        )
    return ""


def _check_pair(features: Tensor, labels: Tensor, valid: Tensor | None = None) -> None:
    """Check that features, labels and the mask of valid frames belong together.

    Raises:
        ValueError: naming the shapes that do not fit.
    """
    if features.dim() != 3:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; they must be (batch, frames, dims)"
        )
    if not features.is_floating_point():
        raise ValueError(f"features are {features.dtype}; they must be floating point")
    check_labels(labels)
    if features.shape[:2] != labels.shape[:2]:
        raise ValueError(
            f"features have (batch, frames) = {tuple(features.shape[:2])} but labels have "
            f"{tuple(labels.shape[:2])}; they must be equal{transposed_hint(features, labels)}"
        )
    if valid is None:
        return
    if valid.dtype != torch.bool or valid.shape != labels.shape[:2]:
        raise ValueError(
            f"valid is {valid.dtype} of shape {tuple(valid.shape)}; it must be bool of shape "
            f"(batch, frames) = {tuple(labels.shape[:2])}"
        )
