"""A term for any training loop: tap, loss, annealing and monitor in one object."""

from __future__ import annotations

import math
import warnings
from typing import Any, Callable, Iterable, Union

import torch
from torch import Tensor, nn

from dcase_coherence.annealing import LinearAnnealing
from dcase_coherence.functional import check_axes
from dcase_coherence.loss import CoherenceLoss, HeadLoss, TransitionLoss, processes
from dcase_coherence.tap import FeatureTap

#: A change of |z| by this factor is worth a warning. Without the term |z| was seen to grow sixfold.
DRIFT = 20.0
#: So many steps at weight 0 are worth a warning.
STANDSTILL = 1000
ADVICE = (
    "lower alpha1, set a margin (for instance margin=4), set normalize=True or clip the gradient"
)
Loss = Union[CoherenceLoss, TransitionLoss, HeadLoss]
Rows = Union[slice, Tensor, None]


class CoherenceRegularizer:
    """Coherence of a submodule's output, to be added to the loss of a training step.

    After each call :attr:`metrics` holds `term` (as it is added), `weight` (of the annealing) and
    the numbers of the loss's own `monitor`.

    Where several processes train one model (torch.distributed) each makes the call in each step:
    the monitor is of all their rows, and `term` their mean, as DDP averages the gradients. A term
    that is not finite in one process stops all of them.

    Args:
        model: the model that is trained (the student, not the teacher).
        path: submodule whose output the loss is of; in the DCASE baselines `"cnn"` gives z, and
            None, the model itself, the posteriors.
        loss: a :class:`~dcase_coherence.CoherenceLoss` of z, :class:`~dcase_coherence.HeadLoss` of
            z, or :class:`~dcase_coherence.TransitionLoss` of posteriors.
        annealing: from a (fractional) epoch to a weight in [0, 1]; by default the paper's ramp
            over five epochs for z, and the full weight from the start for posteriors.
        layout: the axes of the output, see :class:`~dcase_coherence.FeatureTap`.
        element: of an output that is a tuple, see there.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((1, 8)))
        >>> regularizer = CoherenceRegularizer(model, path="1", loss=CoherenceLoss.steps())
        >>> _ = model(torch.randn(6, 1, 50, 8))
        >>> labels = torch.zeros(2, 50, 10)                     # the strong rows are the first two
        >>> term = regularizer(labels, rows=slice(0, 2), epoch=3.0)
        >>> regularizer.metrics["weight"]
        0.6
    """

    def __init__(
        self,
        model: nn.Module,
        path: Union[str, nn.Module, None] = "cnn",
        *,
        loss: Loss,
        annealing: Callable[[float], float] | None = None,
        layout: str | None = None,
        element: Union[int, str, None] = None,
    ) -> None:
        if getattr(loss, "reduction", "mean") == "none":
            raise ValueError("the loss has reduction='none'; a training step needs a scalar")
        if annealing is None:
            annealing = LinearAnnealing(5.0 if isinstance(loss, CoherenceLoss) else 0.0)
        self.model, self.loss, self.annealing = model, loss, annealing
        self.metrics: dict[str, float] = {}
        self._place = (path, layout, element)
        self.tap = FeatureTap(model, *self._place)
        self._first_norm = math.nan
        self._idle_steps = 0
        self._warnings: set[str] = set()

    def __call__(
        self,
        labels: Tensor,
        rows: Rows = None,
        epoch: float = math.inf,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Term of the forward pass that has just been made.

        Args:
            labels: the labels as the supervised loss saw them (after mixup), `(batch, frames,
                classes)` of the whole batch or `(rows, frames, classes)` of the rows alone, in
                their order. They may have one frame more or less than the output.
            rows: which rows of the batch are strongly labelled (a slice, a bool mask or indices);
                None for all. Weak and unlabelled rows have no boundaries to learn from.
            epoch: how many epochs of training are over, fractional (`epoch + step / steps`): with
                whole numbers a ramp leaves the term at 0 for the whole first epoch. Without it the
                term has its full weight.
            valid: bool, False for padding, of the whole batch or of the rows, like the labels.

        Returns:
            The annealed, weighted term, a scalar to be added to the loss.

        Raises:
            RuntimeError: when the model did not run, or ran more than once, since the last call.
            ValueError: when output and labels do not fit.
            FloatingPointError: when the term is not finite.
        """
        output = self.tap.pop()
        check_axes("labels", labels, "classes")
        features = output if rows is None else output[rows]
        labels = _of_rows("labels", labels, rows, len(features), len(output))
        if valid is not None:
            valid = _of_rows("valid", valid, rows, len(features), len(output))
        # Pooling and labels may differ by one frame; by more the loss refuses.
        if abs(features.shape[1] - labels.shape[1]) == 1:
            frames = min(features.shape[1], labels.shape[1])
            features, labels = features[:, :frames], labels[:, :frames]
            valid = None if valid is None else valid[:, :frames]
        weight = self.annealing(epoch)
        loss, sums = self.loss.monitored(features, labels, valid)
        term = weight * loss
        # One copy from the device for all of it.
        total, *totals = sum_over_processes(
            torch.stack([value.detach().to(features.device).double() for value in (term, *sums)])
        )
        self.metrics = {"term": total / processes(), "weight": weight}
        self.metrics.update(self.loss.monitor(totals))
        z_norm = self.metrics.get("z_norm", math.nan)
        check_finite(self.metrics["term"], "the coherence term", z_norm)
        if torch.is_grad_enabled() and not features.requires_grad:
            self._warn(
                "gradient",
                f"the features of {self.tap.name!r} carry no gradient, so the coherence term "
                "changes nothing: all that makes them is frozen (requires_grad=False), ran under "
                "torch.no_grad() or on detached tensors, or is within a checkpointed block with "
                "use_reentrant=True (use_reentrant=False keeps the gradient)",
            )
        if math.isnan(self._first_norm):
            self._first_norm = z_norm
        ratio = z_norm / self._first_norm if self._first_norm else math.nan
        if ratio > DRIFT or ratio < 1 / DRIFT:
            change, ways = (
                ("grown", ADVICE) if ratio > 1 else ("shrunk", "lower alpha2 or set normalize=True")
            )
            self._warn(
                "drift",
                f"the coherence loss has {change} the features from |z| = {self._first_norm:.3g} "
                f"to {z_norm:.3g}; it has no bound of its own: if the scores suffer, {ways}",
            )
        self._idle_steps = self._idle_steps + 1 if weight == 0 else -1
        if self._idle_steps == STANDSTILL:
            self._warn(
                "weight",
                f"the coherence term has had weight 0 for {STANDSTILL} steps, now at epoch "
                f"{epoch:g} of {self.annealing!r}; give it an epoch that moves with each step "
                "(epoch + step / steps), or where there are no epochs annealing_steps",
            )
        return term

    def attach(self) -> None:
        """Tap the model again, in a copy of the regularizer (after pickling)."""
        self.tap.remove()
        self.tap = FeatureTap(self.model, *self._place)

    def check_features(self) -> None:
        """Stop with what to change when the output of the last forward pass is not finite."""
        try:
            norm = float(self.tap.pop().detach().float().norm(dim=-1).mean())
        except RuntimeError:
            return  # the model did not run, so the features are not to blame
        check_finite(norm, "the norm of the features", norm)

    def _warn(self, kind: str, sentence: str) -> None:
        if kind not in self._warnings:
            self._warnings.add(kind)
            warnings.warn(sentence, stacklevel=3)


class CoherenceTerms(list):  # of CoherenceRegularizer; Python 3.8 cannot subscript it here
    """The regularizers of one model, called as one: their sum, and all their metrics.

    Args:
        parts: the regularizers.
        annealing_steps: length of their ramp in steps, where it is not counted in epochs.
    """

    def __init__(
        self, parts: Iterable[CoherenceRegularizer], annealing_steps: int | None = None
    ) -> None:
        super().__init__(parts)
        self.annealing_steps = annealing_steps

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of the last call, see :class:`CoherenceRegularizer`; `term` is the sum of all."""
        numbers = {name: value for part in self for name, value in part.metrics.items()}
        return {**numbers, "term": sum(part.metrics.get("term", math.nan) for part in self)}

    def __call__(self, labels: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Sum of the terms; see :meth:`CoherenceRegularizer.__call__`."""
        return sum(part(labels, *arguments, **options) for part in self)

    def begin(self) -> None:
        """Forget forward passes without a step, and tap a copied model again."""
        for part in self:
            if not part.tap.attached:
                part.attach()
            part.tap.clear()

    def check_features(self) -> None:
        """Stop with what to change when an output is not finite."""
        for part in self:
            part.check_features()


def sum_over_processes(sums: Tensor) -> list[float]:
    """Add numbers up over the processes of torch.distributed; alone, give them as they are."""
    if processes() > 1:
        sums = sums.double()
        torch.distributed.all_reduce(sums)
    return sums.tolist()


def check_finite(value: float, what: str, z_norm: float) -> None:
    """Stop a run that has diverged with what to change."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{what} is {value} (|z| = {z_norm:.3g}): the features have diverged; {ADVICE}"
        )


def _of_rows(name: str, values: Tensor, rows: Rows, n_rows: int, batch: int) -> Tensor:
    """Values of the rows, which are given for them or for the whole batch."""
    if len(values) not in (n_rows, batch):
        raise ValueError(
            f"{name} are of {len(values)} clips, the batch has {batch} and rows selects {n_rows}: "
            f"give {name} of the whole batch or of the selected rows, and name the strongly "
            f"labelled ones by rows, for instance rows=slice(0, {len(values)})"
        )
    return values if len(values) == n_rows else values[rows]
