"""The coherence term for LightningModules, as a mixin in front of the trainer's class."""

from __future__ import annotations

import math
from typing import Any, Mapping, Union

from torch import Tensor, nn

from dcase_coherence.annealing import ExponentialAnnealing, LinearAnnealing
from dcase_coherence.loss import CoherenceLoss
from dcase_coherence.regularizer import CoherenceRegularizer, check_finite, sum_over_processes

#: The `coherence:` section of a configuration, with the paper's settings.
DEFAULTS = {
    "alpha1": 0.1,
    "alpha2": 0.03,
    "lags": [1],
    "reduction": "mean",
    "margin": None,
    "normalize": False,
    "center": False,
    "tolerance": 0.0,
    "annealing": "linear",
    "annealing_epochs": 5.0,
    "path": "cnn",
    "then": None,
    "layout": None,
}
ANNEALINGS = {"linear": LinearAnnealing, "exponential": ExponentialAnnealing}


def build_regularizer(model: Any, settings: Mapping[str, Any]) -> CoherenceRegularizer:
    """Make the regularizer that a `coherence:` section describes.

    Args:
        model: the model to tap.
        settings: some or all keys of :data:`DEFAULTS`; what is not given is the paper's.

    Raises:
        ValueError: for an unknown key or a value out of its range.

    Example:
        >>> from torch import nn
        >>> build_regularizer(nn.Sequential(nn.Linear(2, 2)), {"path": "0", "alpha1": 0.3}).loss
        CoherenceLoss(alpha1=0.3, alpha2=0.03, lags=(1,), reduction='mean', margin=None, \
normalize=False, center=False, tolerance=0.0)
    """
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"coherence: unknown key {unknown[0]!r}; the keys are: {', '.join(DEFAULTS)}"
        )
    values: dict = {**DEFAULTS, **settings}
    if values["annealing"] not in ANNEALINGS:
        raise ValueError(
            f"coherence: annealing is {values['annealing']!r}; it must be one of "
            f"{', '.join(ANNEALINGS)} (annealing_epochs: 0 turns it off)"
        )
    loss_keys = (
        *("alpha1", "alpha2", "lags", "reduction"),
        *("margin", "normalize", "center", "tolerance"),
    )
    return CoherenceRegularizer(
        model,
        values["path"],
        loss=CoherenceLoss(**{key: values[key] for key in loss_keys}),
        annealing=ANNEALINGS[values["annealing"]](values["annealing_epochs"]),
        then=values["then"],
        layout=values["layout"],
    )


class CoherenceMixin:
    """Add the coherence term to the `training_step` of a mean-teacher LightningModule.

    Put it first: `class Coherence(CoherenceMixin, SEDTask4_2021): pass`. The defaults fit the DCASE
    Task 4 baselines of 2021 to 2023: the student is `self.sed_student`, the settings are
    `self.hparams["coherence"]`, the strong rows come first in the batch and its labels are
    `(batch, classes, frames)`. The trainer's optimisation is automatic: under manual optimisation
    call a :class:`~dcase_coherence.regularizer.CoherenceRegularizer` before `manual_backward`.
    Override :meth:`strong_labels` or :meth:`configure_coherence`
    where a trainer differs.

    Logged, beside what the trainer logs: `train/coherence/` + `term`, `weight`, `z_norm`,
    `d_boundary`, `d_inside`, `boundary_rate`, `threshold_ratio`, `pulse_share`
    (see :class:`~dcase_coherence.regularizer.CoherenceRegularizer`). Under DDP these are the
    values of the whole batch, the same in all processes.
    """

    coherence: CoherenceRegularizer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class in which the trainer's `training_step` would hide this one."""
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if nn.Module in order and order.index(nn.Module) < order.index(CoherenceMixin):
            names = [base.__name__ for base in cls.__bases__ if base is not CoherenceMixin]
            raise TypeError(
                f"class {cls.__name__} names CoherenceMixin after the trainer, where it adds "
                f"nothing; write class {cls.__name__}({', '.join(['CoherenceMixin', *names])})"
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # After the trainer has copied the student into the teacher, so that only one is tapped.
        self.coherence = self.configure_coherence()

    def configure_coherence(self) -> CoherenceRegularizer:
        """Build the regularizer; by default on `sed_student` from `hparams["coherence"]`."""
        return build_regularizer(
            self.sed_student,  # type: ignore[attr-defined]
            self.hparams.get("coherence") or {},  # type: ignore[attr-defined]
        )

    def strong_labels(self, batch: Any) -> tuple[Union[slice, Tensor], Tensor]:
        """Rows of the batch with strong labels, and those labels as the supervised loss saw them.

        Called after the trainer's own step, which mixes up the labels of `batch[1]` in place.

        Returns:
            rows (a slice, bool mask or indices) and labels `(rows, frames, classes)`, or of the
            whole batch.
        """
        rows = slice(0, self.hparams["training"]["batch_size"][0])  # type: ignore[attr-defined]
        return rows, batch[1][rows].transpose(1, 2)

    def training_step(self, batch: Any, batch_indx: int, *args: Any, **kwargs: Any) -> Any:
        """Make the trainer's own step, then add the term to its loss.

        Raises:
            RuntimeError: when the trainer optimises by hand (`automatic_optimization = False`).
        """
        if not getattr(self, "automatic_optimization", True):
            raise RuntimeError(
                f"{type(self).__name__} optimises by hand (automatic_optimization = False), so the "
                "mixin cannot add to its loss; in the place of the mixin make a "
                "CoherenceRegularizer in __init__ and add its term to the loss before "
                "self.manual_backward(loss)"
            )
        if not self.coherence.tap.attached:
            self.coherence.attach()
        # A forward without a training step (validation, a scaler's fit) may have left something.
        self.coherence.tap.clear()
        try:
            output = super().training_step(batch, batch_indx, *args, **kwargs)  # type: ignore[misc]
        except RuntimeError:
            # A cross-entropy of NaN posteriors raises from its depths; say what happened instead.
            self.coherence.check_features()
            raise
        if output is None:
            self.coherence.tap.clear()
            return None
        rows, labels = self.strong_labels(batch)
        term = self.coherence(labels, rows=rows, epoch=self._epochs_done(batch_indx))
        for name, value in self.coherence.metrics.items():
            if not math.isnan(value):
                self.log(f"train/coherence/{name}", value)  # type: ignore[attr-defined]
        loss = (output["loss"] if isinstance(output, dict) else output) + term
        # In all processes at once: one that stopped alone would leave the others waiting.
        everywhere = sum_over_processes(loss.detach().reshape(1))
        check_finite(everywhere[0], "the training loss", self.coherence.metrics)
        return {**output, "loss": loss} if isinstance(output, dict) else loss

    def _epochs_done(self, batch_indx: int) -> float:
        """Fractional epoch, so that the annealing is smooth however long an epoch is."""
        trainer = getattr(self, "_trainer", None) or self.__dict__.get("trainer")
        if trainer is None:
            return math.inf
        batches = trainer.num_training_batches
        part = batch_indx / batches if 0 < batches < math.inf else 0.0
        return trainer.current_epoch + part
