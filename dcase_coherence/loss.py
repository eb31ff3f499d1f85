"""The losses as modules, each with the numbers that tell what it does."""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcase_coherence.functional import (
    boundary_weights,
    check_lags,
    check_pair,
    counted_pairs,
    frames_first,
    label_elements,
    label_transitions,
    transition_loss,
    without_padding,
)

#: Arguments of :class:`CoherenceLoss`: the paper's, and ours, which rewards steps, not pulses.
EXACT: dict[str, Any] = {"alpha1": 0.1, "alpha2": 0.03, "lags": (1,)}
STEPS: dict[str, Any] = {"alpha1": 0.3, "alpha2": 0.3, "lags": (1, 2, 4, 8)}
STEPS.update(normalize=True, center=True)


class Pairs(NamedTuple):
    """All pairs of frames that are `lag` apart, each field `(batch, frames - lag)`."""

    distance: Tensor  # squared Euclidean distance of their features
    boundary: Tensor  # bool: their labels differ
    counted: Tensor  # bool: both frames, and all between them, are valid


class _Loss(nn.Module):
    """A loss whose settings are shown by ``print(model)``."""

    def extra_repr(self) -> str:
        """The arguments that the loss was made with."""
        names = inspect.signature(type(self)).parameters
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


class CoherenceLoss(_Loss):
    r"""Temporal coherence of features: they stay put inside events and jump at boundaries.

    .. math:: \frac{1}{|K|} \sum_{k \in K} \Big[
              -\alpha_1 \sum_{y_t \ne y_{t-k}} \|z_t - z_{t-k}\|_2^2
              + \alpha_2 \sum_{y_t = y_{t-k}} \|z_t - z_{t-k}\|_2^2 \Big]

    With the lags K = {1} this is eq. (3) of Kothinti & Elhilali, *Temporal contrastive-loss for
    audio event detection* (ICASSP 2022), :meth:`exact` with its weights. That loss has no lower
    bound; `normalize` or `margin` gives it one. With several lags and alpha1 <= alpha2, a step of
    z at a label change pays and a pulse does not (docs/paper_notes.md works it out):
    :meth:`steps`.

    Args:
        alpha1: weight of the distances across a label change, which are pushed apart.
        alpha2: weight of all other distances, which are pulled together.
        lags: how many frames apart the compared frames are; the loss is the mean over the lags.
            A lag as long as the clip or longer has no pair and counts 0.
        reduction: `"mean"` over label elements (batch x frames x classes), which keeps the paper's
            ratio beside a cross-entropy that is averaged over them; `"sum"`, beside a summed one;
            or `"none"`, the weighted distances at the later frame of each pair, averaged over the
            lags, which add up to `"sum"`.
        margin: squared distances across a label change saturate here; None is the paper's.
        normalize: scale each frame of z to unit norm, so that squared distances lie in [0, 4].
        center: take the mean over all valid frames of the batch, under torch.distributed of all
            processes, off before `normalize`; alone it changes nothing.
        tolerance: a soft label counts as changed when it moves by more than this.

    Shapes:
        features z `(batch, frames, dims)`, labels y `(batch, frames, classes)`, hard or soft, and
        `valid`, bool `(batch, frames)`, False for padding, which never counts. A scalar comes out,
        at least float32, or `(batch, frames - 1)` for `"none"`. Without any pair it is 0.

    Raises:
        ValueError: when a setting is out of its range or shapes do not fit.

    Example:
        >>> z = torch.tensor([[[0.0], [2.0], [3.0]]])
        >>> y = torch.tensor([[[0.0], [1.0], [1.0]]])
        >>> CoherenceLoss(0.5, 0.25, reduction="none")(z, y)
        tensor([[-2.0000,  0.2500]])
    """

    def __init__(
        self,
        alpha1: float,
        alpha2: float,
        *,
        lags: Sequence[int] = (1,),
        reduction: str = "mean",
        margin: float | None = None,
        normalize: bool = False,
        center: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("alpha1", alpha1), ("alpha2", alpha2), ("tolerance", tolerance)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction is {reduction!r}; it must be one of mean, sum, none")
        if margin is not None and not margin > 0:
            raise ValueError(f"margin is {margin}; it must be above 0, or None for no margin")
        check_lags(lags)
        self.alpha1, self.alpha2, self.lags = alpha1, alpha2, tuple(lags)
        self.reduction, self.margin, self.tolerance = reduction, margin, tolerance
        self.normalize, self.center = normalize, center

    @classmethod
    def exact(cls, **changes: Any) -> CoherenceLoss:
        """The paper's loss with its weights. It diverges where a network fits its clips."""
        return cls(**{**EXACT, **changes})

    @classmethod
    def steps(cls, **changes: Any) -> CoherenceLoss:
        """Frames 1, 2, 4 and 8 apart, on centred unit-norm z, which stays in bounds."""
        return cls(**{**STEPS, **changes})

    def forward(self, features: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of features `(batch, frames, dims)` under labels `(batch, frames, classes)`."""
        return self.reduce(self.pairs(features, labels, valid, self.lags), labels, valid)

    def pairs(
        self, features: Tensor, labels: Tensor, valid: Tensor | None, lags: Sequence[int]
    ) -> list[Pairs]:
        """The pairs of frames that are these lags apart, lag by lag."""
        check_pair("features", features, labels, valid, "dims")
        if valid is None:
            valid = torch.ones(labels.shape[:2], dtype=torch.bool, device=labels.device)
        labels, z = without_padding(labels.detach(), valid), without_padding(features, valid)
        if self.center:
            z = z - _mean_frame(z, valid)
        if self.normalize:
            z = F.normalize(z, dim=-1, eps=1e-6)
        return [
            Pairs(
                (z[:, lag:] - z[:, :-lag]).pow(2).sum(dim=-1),
                label_transitions(labels, lag=lag, tolerance=self.tolerance),
                counted_pairs(valid, lag=lag),
            )
            for lag in lags
        ]

    def reduce(self, pairs: Sequence[Pairs], labels: Tensor, valid: Tensor | None) -> Tensor:
        """Weigh the distances of :meth:`pairs` and reduce them to the loss."""
        steps = max(labels.shape[1] - 1, 0)
        terms = []
        for distance, boundary, counted in pairs:
            apart = distance if self.margin is None else distance.clamp(max=self.margin)
            term = torch.where(boundary, -self.alpha1 * apart, self.alpha2 * distance)
            term = term.masked_fill(~counted, 0.0)
            terms.append(F.pad(term, (steps - term.shape[1], 0)))  # at the later frame of each pair
        mean = sum(terms[1:], terms[0]) / len(terms)
        if self.reduction == "none":
            return mean
        if self.reduction == "sum":
            return mean.sum()
        return mean.sum() / label_elements(labels, valid)

    def monitored(
        self, features: Tensor, labels: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and the sums that :meth:`monitor` reads, which add up over processes."""
        pairs = self.pairs(features, labels, valid, (*self.lags, 1, 3))
        loss = self.reduce(pairs[:-2], labels, valid)
        *compared, near, far = pairs  # those of lags 1 and 3 are for pulse_share alone
        with torch.no_grad():
            norms = features.detach().float().norm(dim=-1)
            valid = torch.ones_like(norms, dtype=torch.bool) if valid is None else valid
            at = [pair.boundary & pair.counted for pair in compared]
            changes = near.boundary
            single = changes[:, 1:-1] & ~changes[:, :-2] & ~changes[:, 2:] & far.counted
            sums = [
                sum(pair.counted.sum() for pair in compared),
                sum(mask.sum() for mask in at),
                sum((pair.distance * pair.counted).sum() for pair in compared),
                sum((pair.distance * mask).sum() for pair, mask in zip(compared, at)),
                (near.distance[:, 1:-1] * single).sum(),
                (far.distance * single).sum(),
                valid.sum(),
                norms.masked_fill(~valid, 0.0).sum(),
            ]
            return loss, [torch.as_tensor(value).to(near.distance) for value in sums]

    def monitor(self, sums: Sequence[float]) -> dict[str, float]:
        """Where the term drives the features, over the pairs of all lags; NaN where is none.

        - `z_norm`: mean |z|, of the features as they are;
        - `d_boundary`, `d_inside`: mean squared distance of the pairs with different labels, and
          with the same, of the features as the loss compares them;
        - `boundary_rate`: share of the pairs with different labels;
        - `threshold_ratio`: while `d_boundary / d_inside` is above it the loss rewards larger
          features, below it smaller ones (it is homogeneous of degree 2 in z);
        - `pulse_share`: 1 - sum |z[t+1] - z[t-2]|^2 / sum |z[t] - z[t-1]|^2, in [0, 1], over the
          changes into frame t with stable labels for two frames on either side: 1 for a pulse
          there, 0 for a step.
        """
        pairs, n_boundary, d_all, d_boundary, near, far, frames, norm = sums
        n_inside = pairs - n_boundary
        return {
            "z_norm": ratio(norm, frames),
            "d_boundary": ratio(d_boundary, n_boundary),
            "d_inside": ratio(d_all - d_boundary, n_inside),
            "boundary_rate": ratio(n_boundary, pairs),
            "threshold_ratio": ratio(self.alpha2 * n_inside, self.alpha1 * n_boundary),
            "pulse_share": 1.0 - min(ratio(far, near), 1.0),
        }


class TransitionLoss(_Loss):
    """Transitions of posteriors, held to those of the labels, and the frames near a change.

    `weight` times :func:`~dcase_coherence.transition_loss`, plus the cross-entropy of the frames
    near a label change, `boundary_weight` - 1 times: added to a mean cross-entropy this counts
    those frames `boundary_weight` times, as :func:`~dcase_coherence.boundary_weights` does.

    Args:
        weight: of the transition loss; 0 leaves it out.
        lags: how many frames apart two frames are compared.
        boundary_weight: of the frames near a label change in the cross-entropy; 1 leaves it out.
        boundary_frames: so many frames on each side of a change are near it.
        dim: axis of the frames, see :func:`~dcase_coherence.transition_loss`.

    Shapes:
        posteriors in [0, 1] and labels, hard or soft, both `(batch, frames, classes)`, and
        `valid`, bool `(batch, frames)`, False for padding. A scalar comes out.

    Raises:
        ValueError: when a setting is out of its range or shapes do not fit.

    Example:
        >>> y = torch.tensor([[[0.0], [1.0], [1.0], [0.0]]])
        >>> TransitionLoss(weight=5.0)(torch.full_like(y, 0.5), y)
        tensor(1.6667)
    """

    def __init__(
        self,
        weight: float = 5.0,
        lags: Sequence[int] = (1, 2, 4),
        *,
        boundary_weight: float = 1.0,
        boundary_frames: int = 3,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is {weight}; it must be a finite number of at least 0")
        if not 1 <= boundary_weight < math.inf:
            raise ValueError(
                f"boundary_weight is {boundary_weight}; it must be a finite number of at least 1"
            )
        check_lags(lags)
        boundary_weights(torch.zeros(1, 1, 1), frames=boundary_frames)  # checks them
        self.weight, self.lags, self.dim = weight, tuple(lags), dim
        self.boundary_weight, self.boundary_frames = boundary_weight, boundary_frames

    def forward(self, posteriors: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of posteriors under labels, both `(batch, frames, classes)`."""
        posteriors, labels = frames_first(posteriors, labels, self.dim)
        transitions, boundaries = self._parts(posteriors, labels, valid)
        return transitions + boundaries

    def _parts(
        self, posteriors: Tensor, labels: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Transitions and boundaries, weighted, of `(batch, frames, classes)`."""
        if self.weight:
            transitions = self.weight * transition_loss(
                posteriors, labels, lags=self.lags, valid=valid, dim=1
            )
        else:
            check_pair("posteriors", posteriors, labels, valid)
            transitions = without_padding(posteriors[:0], None).sum()  # 0, with a gradient
        if self.boundary_weight == 1:
            return transitions, torch.zeros_like(transitions)
        extra = boundary_weights(
            labels, self.boundary_weight, frames=self.boundary_frames, valid=valid, dim=1
        )
        return transitions, cross_entropy(posteriors, labels, valid, weight=extra - 1)

    def monitored(
        self, posteriors: Tensor, labels: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and the sums that :meth:`monitor` reads, which add up over processes."""
        transitions, boundaries = self._parts(posteriors, labels, valid)
        loss = transitions + boundaries
        with torch.no_grad():
            sums = [transitions, boundaries, cross_entropy(posteriors, labels, valid)]
            p = without_padding(posteriors, valid)
            y = without_padding(labels.to(p.dtype), valid)
            counts: list[Any] = [0.0, 0.0, 0.0, 0.0]
            for lag in self.lags:
                step, change = p[:, lag:] - p[:, :-lag], y[:, lag:] - y[:, :-lag]
                if valid is not None:
                    change = change * counted_pairs(valid, lag=lag).unsqueeze(-1)
                for place, mask in enumerate((change > 0, change < 0)):
                    counts[2 * place] = counts[2 * place] + mask.sum()
                    counts[2 * place + 1] = counts[2 * place + 1] + (step * mask).sum()
            return loss, [torch.as_tensor(value).to(p) for value in (*sums, *counts)]

    def monitor(self, sums: Sequence[float]) -> dict[str, float]:
        """What the term asks of the posteriors, and what they do; NaN where nothing changes.

        - `transitions`, `boundaries`: the two parts of the term, weighted, without the annealing;
        - `share`: both, over the cross-entropy of the same rows;
        - `step_onset`, `step_offset`: mean movement of a class's posterior from before its onset
          to after it, towards 1, and across its offset, towards -1, over the pairs of all lags.
        """
        transitions, boundaries, entropy, n_onset, onset, n_offset, offset = sums
        return {
            "transitions": transitions,
            "boundaries": boundaries,
            "share": ratio(transitions + boundaries, entropy),
            "step_onset": ratio(onset, n_onset),
            "step_offset": ratio(offset, n_offset),
        }


class HeadLoss(nn.Module):
    """The transition loss one layer down, on a linear head of z that is used in training alone.

    The head's posteriors get the mean cross-entropy and :class:`TransitionLoss`. Unlike eq. (3)
    this keeps z itself coherent with an optimum. The optimizer has to hold its parameters.

    Args:
        dims: of the features.
        classes: of the labels.
        loss: of the head's posteriors.

    Raises:
        ValueError: in a call, when shapes do not fit.
    """

    def __init__(self, dims: int, classes: int, loss: TransitionLoss) -> None:
        super().__init__()
        self.head = nn.Linear(dims, classes)
        self.loss = loss

    def forward(self, features: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss of features `(batch, frames, dims)` under labels `(batch, frames, classes)`."""
        return self.monitored(features, labels, valid)[0]

    def monitored(
        self, features: Tensor, labels: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss, and the sums that :meth:`monitor` reads."""
        check_pair("features", features, labels, valid, "dims")
        posteriors = torch.sigmoid(self.head(features))
        loss, sums = self.loss.monitored(posteriors, labels, valid)
        return loss + cross_entropy(posteriors, labels, valid), sums

    def monitor(self, sums: Sequence[float]) -> dict[str, float]:
        """As :meth:`TransitionLoss.monitor`, of the head's posteriors, as `head_*`."""
        return {f"head_{name}": value for name, value in self.loss.monitor(sums).items()}


def coherence_loss(
    features: Tensor,
    labels: Tensor,
    alpha1: float = EXACT["alpha1"],
    alpha2: float = EXACT["alpha2"],
    *,
    valid: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Functional form of :class:`CoherenceLoss`, by default the paper's exact loss, its eq. (3).

    Features are `(batch, frames, dims)`, labels `(batch, frames, classes)`, and `valid`, False for
    padding, `(batch, frames)`; `settings` are the others of the class.

    Raises:
        ValueError: a setting is out of its range, or shapes do not fit.

    Example:
        >>> z = torch.tensor([[[0.0], [2.0]]])
        >>> y = torch.tensor([[[0.0], [1.0]]])
        >>> coherence_loss(z, y, reduction="sum")  # alpha1 times the squared distance, at a change
        tensor(-0.4000)
    """
    return CoherenceLoss(alpha1, alpha2, **settings)(features, labels, valid)


def cross_entropy(
    posteriors: Tensor, labels: Tensor, valid: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Mean binary cross-entropy over the valid frames, at least float32."""
    p = posteriors
    if p.dtype in (torch.float16, torch.bfloat16):
        # Half of float16's last digit below 1: a posterior of 1 would pass infinity to a sigmoid.
        p = p.float().clamp(2.0**-12, 1 - 2.0**-12)
    p, y = without_padding(p, valid), without_padding(labels.detach().to(p.dtype), valid)
    weight = None if weight is None else weight.to(p)
    new = hasattr(torch, "autocast")  # not in torch 1.8
    # Autocast refuses this function, whose input is in float32 here.
    with torch.autocast(p.device.type, enabled=False) if new else torch.cuda.amp.autocast(False):
        total = F.binary_cross_entropy(p, y, weight=weight, reduction="sum")
    return total / label_elements(labels, valid)


def ratio(numerator: float, denominator: float) -> float:
    """A quotient, NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan


def processes() -> int:
    """How many processes torch.distributed joins; 1 without it."""
    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


def _mean_frame(z: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid frames of all processes, `(dims,)`; its gradient reaches all of them."""
    total = torch.cat([z.sum(dim=(0, 1)), valid.sum().to(z.dtype).reshape(1)])
    if processes() > 1:
        from torch.distributed.nn.functional import all_reduce

        total = all_reduce(total)
    return total[:-1] / total[-1].clamp(min=1)
