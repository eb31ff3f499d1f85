"""Other changes of the loss, to tell what the term does from what they do."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dcase_coherence import CoherenceLoss, boundary_weights
from dcase_coherence.loss import EXACT, Pairs

#: Readings of the paper's eq. (3), see :class:`Reading`.
READINGS = ("tanh", "unsquared")
#: What `training.control` may hold: its one key, with a value above 0.
CONTROLS = (
    "positive",
    "positive_by_class",
    "event",
    "scale",
    "squared_error",
    "focal",
    "tversky",
    *READINGS,
)
#: An event of this many frames weighs 1 with `event`: about a second.
FRAMES_OF_AN_EVENT = 12


def strong_loss(posteriors: Tensor, labels: Tensor, control: Mapping[str, Any] | None) -> Tensor:
    """Loss of the strong labels: the mean cross-entropy, or a control in its place.

    - `positive`: active frames weigh as much as the value;
    - `positive_by_class`: active frames weigh, class by class, so that the mean weight in the batch
      is that of :func:`~dcase_coherence.boundary_weights` with the value;
    - `event`: active frames of an event of n frames weigh 12 / n, from 1 to the value, so that
      events rather than frames count the same;
    - `scale`: the loss times the value;
    - `squared_error`: the value times the mean of (p - y)^2, added;
    - `focal`: the asymmetric focal loss of Imoto et al. (ICASSP 2021), the value on active frames,
      1 on the others;
    - `tversky`: the value times the Tversky loss of the batch, mean over its classes (0.3 for false
      positives, 0.7 for false negatives), added;
    - `tanh`, `unsquared`: nothing here, as they are terms on z, see :class:`Reading`.

    Args:
        posteriors: `(batch, classes, frames)` in [0, 1].
        labels: the same shape.
        control: name and value, or none.
    """
    entropy = functional.binary_cross_entropy
    if not control or not control.keys().isdisjoint(READINGS):
        return entropy(posteriors, labels)
    ((name, value),) = control.items()
    if name == "positive":
        return entropy(posteriors, labels, weight=1 + (value - 1) * labels)
    if name == "positive_by_class":
        extra = (boundary_weights(labels, value, dim=-1) - 1).mean((0, 2), keepdim=True)
        share = labels.mean((0, 2), keepdim=True).clamp(min=1e-6)
        return entropy(posteriors, labels, weight=1 + extra / share * labels)
    if name == "event":
        return entropy(posteriors, labels, weight=event_weights(labels, value))
    if name == "scale":
        return value * entropy(posteriors, labels)
    if name == "squared_error":
        return entropy(posteriors, labels) + value * functional.mse_loss(posteriors, labels)
    if name == "focal":
        each = entropy(posteriors, labels, reduction="none")
        focus = labels * (1 - posteriors).pow(value) + (1 - labels) * posteriors
        return (focus * each).mean()
    hits = (posteriors * labels).sum((0, 2))
    wrong = (posteriors * (1 - labels)).sum((0, 2))
    missed = ((1 - posteriors) * labels).sum((0, 2))
    present = labels.sum((0, 2)) > 0
    index = (hits / (hits + 0.3 * wrong + 0.7 * missed).clamp(min=1e-6))[present]
    loss = 1 - index.mean() if bool(present.any()) else hits.sum() * 0
    return entropy(posteriors, labels) + value * loss


class Reading(CoherenceLoss):
    """Eq. (3) with the paper's weights, in a reading of the paper that grows more slowly.

    Args:
        name: `tanh`, of z behind a tanh; or `unsquared`, of distances that are not squared.
        weight: of the whole loss.

    Example:
        >>> z, y = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[0.0], [1.0]]])
        >>> Reading("unsquared", 10)(z, y)
        tensor(-1.5000)
    """

    def __init__(self, name: str, weight: float) -> None:
        super().__init__(weight * EXACT["alpha1"], weight * EXACT["alpha2"])
        self.name = name

    def pairs(
        self, features: Tensor, labels: Tensor, valid: Tensor | None, lags: Sequence[int]
    ) -> list[Pairs]:
        """The pairs of frames that are these lags apart, lag by lag."""
        if self.name == "tanh":
            return super().pairs(features.tanh(), labels, valid, lags)
        pairs = super().pairs(features, labels, valid, lags)
        # The root has no gradient at 0.
        return [pair._replace(distance=(pair.distance + 1e-12).sqrt()) for pair in pairs]


@torch.no_grad()
def event_weights(labels: Tensor, most: float) -> Tensor:
    """Weights of the active frames of hard labels `(batch, classes, frames)`, from 1 to `most`.

    Example:
        >>> event_weights(torch.tensor([[[1.0] * 6 + [0.0] * 2]]), 4.0)
        tensor([[[2., 2., 2., 2., 2., 2., 1., 1.]]])
    """
    active = (labels > 0.5).flatten(0, 1)
    starts = active & ~functional.pad(active, (1, 0))[:, :-1]
    # Events are numbered through all rows; 0 is no event.
    number = starts.flatten().long().cumsum(0).reshape(active.shape) * active
    lengths = torch.bincount(number.flatten())[number].to(labels.dtype)
    weights = (FRAMES_OF_AN_EVENT / lengths).clamp(1.0, most)
    return torch.where(active, weights, torch.ones_like(weights)).reshape(labels.shape)
