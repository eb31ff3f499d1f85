"""The coherence term for any training loop: tap, loss, annealing and monitor in one object."""

from __future__ import annotations

import math
import warnings
from typing import Any, Callable, Sequence, Union

import torch
from torch import Tensor, nn

from dcase_coherence.annealing import LinearAnnealing
from dcase_coherence.functional import (
    check_labels,
    comparable_features,
    counted_pairs,
    label_transitions,
    several_processes,
    transition_distances,
    transposed_hint,
)
from dcase_coherence.loss import CoherenceLoss
from dcase_coherence.pseudo import PseudoRows
from dcase_coherence.tap import FeatureTap

#: A change of |z| by this factor is worth a warning. Without the term |z| was seen to grow sixfold.
DRIFT = 20.0


class CoherenceRegularizer:
    """Temporal coherence of a submodule's output, to be added to the loss of a training step.

    The monitor in :attr:`metrics` tells where the term drives the features: scaling z up lowers
    the loss while `d_boundary / d_inside` is above `threshold_ratio`, and scaling it down does
    while it is below (the loss is homogeneous of degree 2 in z). All of them are of the features
    as the loss compares them (`center`, `normalize`) and over the pairs of all its lags:

    - `term`: the term, annealed by `weight`;
    - `z_norm`: mean |z|, of the features as they are;
    - `d_boundary`, `d_inside`: mean squared distance of the pairs with different labels, and with
      the same;
    - `boundary_rate`: the share of pairs with different labels;
    - `threshold_ratio`: alpha2 / alpha1 times the number of the latter over the former;
    - `pulse_share`: the shape of z at label changes, at lag 1 whatever the loss's lags. A change
      from frame t - 1 to t with the same labels in the two frames before it and in the two after
      it has the distance |z[t] - z[t-1]|^2; what is left of it one frame further out on either
      side is |z[t+1] - z[t-2]|^2. The share that is gone, 1 - sum |z[t+1] - z[t-2]|^2 / sum
      |z[t] - z[t-1]|^2 over all such changes, cut to [0, 1], is 1 for a pulse on the frame before
      or after the change, 0 for a step, and 0 for noise.

    With pseudo-labelled rows there are, of their own term alone, also

    - `pseudo_term`: the term, annealed by `pseudo_weight`;
    - `pseudo_frames`: the share of their frames that counts;
    - `pseudo_boundary_rate`: the share of pairs with different labels among those that count.

    A number without a pair to take it from is NaN.

    Where several processes train one model (torch.distributed) each makes the call in each step:
    the monitor is of all their rows, and `term` their mean, as DDP averages the gradients. With
    `reduction="mean"` and shares of equal size that is the term of the joined batch; with `"sum"`
    it is that term divided by the number of processes. A term that is not finite in one process
    stops all of them.

    Args:
        model: the model that is trained (the student, not the teacher).
        path: submodule whose output is z; in the DCASE baselines `"cnn"`.
        loss: the coherence loss.
        annealing: from a (fractional) epoch to a weight in [0, 1].
        then: submodule that the output passes through once more, see
            :class:`~dcase_coherence.tap.FeatureTap`.
        layout: the axes of the output where they are not `(batch, channels, frames, bins)` or
            `(batch, frames, dims)`, for instance `"bdt"`, see there.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((1, 8)))
        >>> regularizer = CoherenceRegularizer(model, path="1")
        >>> _ = model(torch.randn(6, 1, 50, 8))
        >>> labels = torch.zeros(2, 50, 10)                     # the strong rows are the first two
        >>> term = regularizer(labels, rows=slice(0, 2), epoch=3.0)
        >>> sorted(regularizer.metrics)  # doctest: +NORMALIZE_WHITESPACE
        ['boundary_rate', 'd_boundary', 'd_inside', 'pulse_share', 'term', 'threshold_ratio',
         'weight', 'z_norm']
    """

    def __init__(
        self,
        model: nn.Module,
        path: Union[str, nn.Module, None] = "cnn",
        loss: CoherenceLoss | None = None,
        annealing: Callable[[float], float] | None = None,
        then: Union[str, nn.Module, None] = None,
        layout: str | None = None,
    ) -> None:
        self.model = model
        self.path = path
        self.then = then
        self.layout = layout
        self.loss = CoherenceLoss() if loss is None else loss
        self.annealing = LinearAnnealing() if annealing is None else annealing
        self.metrics: dict[str, float] = {}
        self.tap = FeatureTap(model, path, then, layout)
        self._first_norm = math.nan
        self._warned = False
        self._warned_of_gradient = False

    def __call__(
        self,
        labels: Tensor,
        rows: Union[slice, Tensor, None] = None,
        epoch: float = math.inf,
        valid: Tensor | None = None,
        pseudo: PseudoRows | None = None,
    ) -> Tensor:
        """Coherence term of the forward pass that has just been made.

        Args:
            labels: the labels as the supervised loss saw them (after mixup), `(batch, frames,
                classes)` of the whole batch or `(rows, frames, classes)` of the rows alone, in
                their order.
            rows: which rows of the batch are strongly labelled (a slice, a bool mask or indices);
                None for all. Weak and unlabelled rows have no boundaries to learn from.
            epoch: how many epochs of training are over, fractional (`epoch + step / steps`): with
                whole numbers a ramp leaves the term at 0 for the whole first epoch. Without it the
                term has its full weight.
            valid: bool, False for padding, of the whole batch or of the rows, like the labels.
            pseudo: rows whose labels are a teacher's (:func:`~dcase_coherence.pseudo_labels`). They
                make a second term with a mean, a centre and an annealing weight of its own, which
                leaves the first as it is.

        Returns:
            The annealed, weighted term, a scalar to be added to the loss; both with `pseudo`.

        Raises:
            RuntimeError: when the model did not run, or ran more than once, since the last call.
            ValueError: when features and labels differ by more than one frame, or the labels are
                neither of the batch nor of the rows.
            FloatingPointError: when the term is not finite.
        """
        features = self.tap.pop()
        weight = self.annealing(epoch)
        term, monitor = self._term(features, labels, rows, valid, weight)
        del monitor["frames"]
        self.metrics = {**monitor, "weight": weight}
        check_finite(self.metrics["term"], "the coherence term", self.metrics)
        self._watch(self.metrics["z_norm"])
        if pseudo is None:
            return term
        # An annealing may begin above 0.
        weight = self.annealing(pseudo.epoch) if pseudo.epoch >= 0 else 0.0
        guessed, monitor = self._term(features, pseudo.labels, pseudo.rows, pseudo.valid, weight)
        for name in ("term", "frames", "boundary_rate"):
            self.metrics[f"pseudo_{name}"] = monitor[name]
        self.metrics["pseudo_weight"] = weight
        check_finite(monitor["term"], "the coherence term of pseudo-labels", self.metrics)
        return term + guessed

    def _term(
        self,
        features: Tensor,
        labels: Tensor,
        rows: Union[slice, Tensor, None],
        valid: Tensor | None,
        weight: float,
    ) -> tuple[Tensor, dict[str, float]]:
        """Weighted loss of some rows of the batch, and their monitor."""
        check_labels(labels)
        if rows is not None:
            batch = features.shape[0]
            features = features[rows]
            labels = _of_rows("labels", labels, rows, batch, features.shape[0])
            if valid is not None:
                valid = _of_rows("valid", valid, rows, batch, features.shape[0])
        elif features.shape[0] != labels.shape[0]:
            raise ValueError(
                f"labels are of {labels.shape[0]} clips and the batch has {features.shape[0]}; "
                "name those that are strongly labelled by rows, for instance rows=slice(0, "
                f"{labels.shape[0]})"
            )
        self._check_gradient(features)
        features, labels, valid = crop_to_same_frames(features, labels, valid)
        term = weight * self.loss(features, labels, valid)
        if term.dim():
            raise ValueError("the loss has reduction='none'; a training step needs a scalar")
        return term, self._monitor(features.detach(), labels, valid, term.detach())

    def _check_gradient(self, features: Tensor) -> None:
        """Warn once of features that no gradient can flow from."""
        if self._warned_of_gradient or features.requires_grad or not torch.is_grad_enabled():
            return
        self._warned_of_gradient = True
        warnings.warn(
            f"the features of {self.tap.name!r} carry no gradient, so the coherence term changes "
            "nothing: all that makes them is frozen (requires_grad=False), ran under "
            "torch.no_grad() or on detached tensors, or is within a checkpointed block with "
            "use_reentrant=True (use_reentrant=False keeps the gradient)",
            stacklevel=4,
        )

    def _watch(self, z_norm: float) -> None:
        """Warn once when the features leave the scale they started with."""
        if math.isnan(self._first_norm):
            self._first_norm = z_norm
        ratio = z_norm / self._first_norm if self._first_norm else math.nan
        if self._warned or not (ratio > DRIFT or ratio < 1 / DRIFT):
            return
        self._warned = True
        where, ways = (
            "grown",
            "lower alpha1, set a margin (for instance margin=4) or normalize=True",
        )
        if ratio < 1:
            where, ways = "shrunk", "lower alpha2 or set normalize=True"
        warnings.warn(
            f"the coherence loss has {where} the features from |z| = {self._first_norm:.3g} to "
            f"{z_norm:.3g}; it has no bound of its own: if the scores suffer, {ways}",
            stacklevel=3,
        )

    def check_features(self) -> None:
        """Stop with what to change when the features of the last forward pass are not finite.

        Raises:
            FloatingPointError: when they are not.
        """
        try:
            features = self.tap.pop().detach()
        except RuntimeError:
            return  # the model did not run, so the features are not to blame
        z_norm = float(features.norm(dim=-1).mean())
        if not math.isfinite(z_norm):
            # The other processes wait for this one's part of the monitor; it stops them, too.
            labels = features.new_zeros((*features.shape[:2], 1))
            with torch.no_grad():
                self.loss(features, labels)  # with center=True they wait in here first
            self._monitor(features, labels, None, features.new_tensor(z_norm))
        check_finite(z_norm, "the norm of the features", {"z_norm": z_norm})

    def attach(self) -> None:
        """Tap the model again, in a copy of the regularizer (after pickling)."""
        self.tap.remove()
        self.tap = FeatureTap(self.model, self.path, self.then, self.layout)

    @torch.no_grad()
    def _monitor(
        self, features: Tensor, labels: Tensor, valid: Tensor | None, term: Tensor
    ) -> dict[str, float]:
        loss = self.loss
        norms = features.float().norm(dim=-1)
        if valid is None:
            valid = torch.ones_like(norms, dtype=torch.bool)
        labels = labels.masked_fill(~valid.unsqueeze(-1), 0)
        z = comparable_features(features, center=loss.center, normalize=loss.normalize, valid=valid)
        by_lag = []
        for lag in loss.lags:
            counted = counted_pairs(valid, lag=lag)
            boundary = label_transitions(labels, lag=lag, tolerance=loss.tolerance) & counted
            distances = transition_distances(z, lag=lag) * counted
            by_lag.append(
                [counted.sum(), boundary.sum(), distances.sum(), (distances * boundary).sum()]
            )
        changes = label_transitions(labels, tolerance=loss.tolerance)
        alone = changes[:, 1:-1] & ~changes[:, :-2] & ~changes[:, 2:] & counted_pairs(valid, lag=3)
        single = [
            (transition_distances(z)[:, 1:-1] * alone).sum(),
            (transition_distances(z, lag=3) * alone).sum(),
            valid.sum(),
            norms.masked_fill(~valid, 0.0).sum(),
            term,
        ]
        # One copy from the device for all of it; sums, which add up over processes.
        sums = [sum(column) for column in zip(*by_lag)] + single
        totals = sum_over_processes(
            torch.stack([value.to(z.dtype) for value in sums]), (valid.numel(), 1)
        )
        pairs, n_boundary, d_all, d_boundary, near, far, frames, norm, terms, *counts = totals
        all_frames, processes = counts
        n_inside = pairs - n_boundary
        return {
            "z_norm": _ratio(norm, frames),
            "d_boundary": _ratio(d_boundary, n_boundary),
            "d_inside": _ratio(d_all - d_boundary, n_inside),
            "boundary_rate": _ratio(n_boundary, pairs),
            "threshold_ratio": _ratio(loss.alpha2 * n_inside, loss.alpha1 * n_boundary),
            "pulse_share": 1.0 - min(_ratio(far, near), 1.0),
            "frames": _ratio(frames, all_frames),
            "term": terms / processes,
        }

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, metrics={})


def sum_over_processes(sums: Tensor, counts: Sequence[float] = ()) -> list[float]:
    """Add numbers up over the processes of torch.distributed; alone, give them as they are.

    Args:
        sums: numbers on the device of the training, `(n,)`.
        counts: more numbers, which are added behind them.

    Example:
        >>> sum_over_processes(torch.tensor([0.5, 2.0]), [3])
        [0.5, 2.0, 3]
    """
    if not several_processes():
        return [*sums.tolist(), *counts]
    joined = torch.cat([sums.double(), sums.new_tensor(counts).double()])
    torch.distributed.all_reduce(joined)
    return joined.tolist()


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _of_rows(
    name: str, values: Tensor, rows: Union[slice, Tensor], batch: int, n_rows: int
) -> Tensor:
    """Values of the rows, which are given for them or for the whole batch."""
    if values.shape[0] == n_rows:
        return values
    if values.shape[0] == batch:
        return values[rows]
    raise ValueError(
        f"{name} are of {values.shape[0]} clips; rows selects {n_rows} of the {batch} in the "
        f"batch: give {name} of the whole batch or of the selected rows"
    )


def crop_to_same_frames(
    features: Tensor, labels: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Crop features or labels by the one frame that pooling and label encoding may differ by.

    Raises:
        ValueError: when they differ by more than one frame.
    """
    n_features, n_labels = features.shape[1], labels.shape[1]
    if abs(n_features - n_labels) > 1:
        raise ValueError(
            f"features have {n_features} frames and labels {n_labels}; they may differ by one at "
            "most"
            + (
                transposed_hint(features, labels, apart=1)
                or ": check the pooling over time of the network against that of the labels"
            )
        )
    frames = min(n_features, n_labels)
    return (
        features[:, :frames],
        labels[:, :frames],
        None if valid is None else valid[:, :frames],
    )


def check_finite(value: float, what: str, metrics: dict[str, float]) -> None:
    """Stop a run that has diverged.

    Raises:
        FloatingPointError: when the value is not finite; the message says what to change.
    """
    if math.isfinite(value):
        return
    raise FloatingPointError(
        f"{what} is {value} (|z| = {metrics.get('z_norm', math.nan):.3g}): the features have "
        "diverged; lower alpha1, set a margin (for instance margin=4), set normalize=True or clip "
        "the gradient"
    )
