"""Temporal coherence as functions of features and labels (eq. 3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("mean", "sum", "none")


def check_settings(
    alpha1: float, alpha2: float, reduction: str, margin: float | None, tolerance: float
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


def _check_labels(labels: Tensor) -> None:
    if labels.dim() != 3:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; they must be (batch, frames, classes)"
        )


def label_transitions(labels: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Mark the frames at which the labels change: the indicator of eq. (3).

    A transition is counted when any class starts or stops, whatever the others do.

    Args:
        labels: hard or soft labels, `(batch, frames, classes)`.
        tolerance: a class counts as changed when it moves by more than this.

    Returns:
        bool `(batch, frames - 1)`; element `t` is the step from frame `t` to frame `t + 1`.

    Raises:
        ValueError: when labels are not three-dimensional or hold NaN.

    Example:
        >>> label_transitions(torch.tensor([[[0.0], [1.0], [1.0], [0.0]]]))
        tensor([[ True, False,  True]])
    """
    _check_labels(labels)
    if labels.is_floating_point() and bool(torch.isnan(labels).any()):
        raise ValueError("labels hold NaN; every frame needs a number for every class")
    if not labels.is_floating_point():
        labels = labels.to(torch.int64)
    return ((labels[:, 1:] - labels[:, :-1]).abs() > tolerance).any(dim=-1)


def transition_distances(features: Tensor, *, normalize: bool = False) -> Tensor:
    """Squared Euclidean distance between neighbouring frames, at least in float32.

    Args:
        features: z, `(batch, frames, dims)`.
        normalize: scale every frame to unit norm first, so that a distance lies in [0, 4].

    Returns:
        `(batch, frames - 1)`, float32 (float64 for float64 features).

    Example:
        >>> transition_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]))
        tensor([[25.]])
    """
    if features.dtype in (torch.float16, torch.bfloat16):
        # Under autocast z is half precision, whose squares overflow at |z| of 256.
        features = features.float()
    if normalize:
        features = torch.nn.functional.normalize(features, dim=-1, eps=1e-6)
    return (features[:, 1:] - features[:, :-1]).pow(2).sum(dim=-1)


def coherence_loss(
    features: Tensor,
    labels: Tensor,
    alpha1: float = 0.1,
    alpha2: float = 0.03,
    *,
    reduction: str = "mean",
    margin: float | None = None,
    normalize: bool = False,
    tolerance: float = 0.0,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Temporal coherence loss: stable features inside events, a jump at their boundaries.

    .. math:: -\alpha_1 \sum_{y_t \ne y_{t-1}} \|z_t - z_{t-1}\|_2^2
              + \alpha_2 \sum_{y_t = y_{t-1}} \|z_t - z_{t-1}\|_2^2

    Eq. (3) of Kothinti & Elhilali, *Temporal contrastive-loss for audio event detection*. The
    paper adds this sum to a cross-entropy summed over clips, frames and classes; beside the usual
    cross-entropy *averaged* over them, `reduction="mean"` divides by the same number of label
    elements and so keeps the paper's ratio of the two.

    Args:
        features: z, the output of the convolutional layers, `(batch, frames, dims)`.
        labels: y, `(batch, frames, classes)`, hard or soft. No gradient flows to them.
        alpha1: weight of the distances at label changes (pushed apart).
        alpha2: weight of the distances elsewhere (pulled together).
        reduction: `"mean"` over label elements (batch x frames x classes), `"sum"`, or `"none"`
            for the signed, weighted distance of each transition.
        margin: boundary distances (squared) saturate here, which bounds the loss from below;
            None is the paper's.
        normalize: use unit-norm features; False is the paper's.
        tolerance: a soft label counts as changed when it moves by more than this.
        valid: bool `(batch, frames)`, False for padding. Padding frames, and steps into or out of
            them, never count, whatever the features or labels there.

    Returns:
        A scalar, or `(batch, frames - 1)` for `reduction="none"`. Without any transition (an
        empty batch, a single frame, nothing valid) the loss is 0.

    Raises:
        ValueError: for shapes that do not fit, NaN labels, a negative alpha, an unknown
            reduction or a margin that is not positive.

    Example:
        >>> z = torch.tensor([[[0.0], [2.0], [3.0]]])
        >>> y = torch.tensor([[[0.0], [1.0], [1.0]]])
        >>> coherence_loss(z, y, alpha1=0.5, alpha2=0.25, reduction="none")
        tensor([[-2.0000,  0.2500]])
        >>> coherence_loss(z, y, alpha1=0.5, alpha2=0.25, reduction="sum")
        tensor(-1.7500)
    """
    check_settings(alpha1, alpha2, reduction, margin, tolerance)
    _check_pair(features, labels, valid)

    counted: Tensor | None = None
    if valid is not None:
        counted = valid[:, 1:] & valid[:, :-1]
        # Filled before the difference: masking after it would still pass NaN to the gradient.
        features = features.masked_fill(~valid.unsqueeze(-1), 0.0)
        labels = labels.masked_fill(~valid.unsqueeze(-1), 0)

    boundary = label_transitions(labels.detach(), tolerance=tolerance)
    distances = transition_distances(features, normalize=normalize)
    repelled = distances if margin is None else distances.clamp(max=margin)
    terms = torch.where(boundary, -alpha1 * repelled, alpha2 * distances)
    if counted is not None:
        terms = terms.masked_fill(~counted, 0.0)

    if reduction == "none":
        return terms
    total = terms.sum()
    if reduction == "sum":
        return total
    elements = labels.numel() if valid is None else int(valid.sum()) * labels.shape[-1]
    return total / max(elements, 1)


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
    _check_labels(labels)
    if features.shape[:2] != labels.shape[:2]:
        raise ValueError(
            f"features have (batch, frames) = {tuple(features.shape[:2])} but labels have "
            f"{tuple(labels.shape[:2])}; they must be equal"
        )
    if valid is None:
        return
    if valid.dtype != torch.bool or valid.shape != labels.shape[:2]:
        raise ValueError(
            f"valid is {valid.dtype} of shape {tuple(valid.shape)}; it must be bool of shape "
            f"(batch, frames) = {tuple(labels.shape[:2])}"
        )
