"""The coherence term for LightningModules, as a mixin in front of the trainer's class."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any, Sequence, Union

from torch import Tensor, nn

from dcase_coherence.regularizer import (
    CoherenceRegularizer,
    CoherenceTerms,
    check_finite,
    sum_over_processes,
)
from dcase_coherence.settings import Settings

#: The ramp's share of `max_steps` where there are no epochs: the paper's 5 of 50.
RAMP = 0.1
#: The heads' parameters in a checkpoint, apart from the network's.
HEADS = "coherence_heads"
#: What is asked of a LightningModule, said where something is missing.
NEEDS = (
    "the mixin needs the network as self.sed_student, or called as self(...), and the strong clips "
    "first in the batch, as many as hparams['training']['batch_size'][0], with labels batch[1] "
    "(batch, classes, frames); for any other batch, such as labels (batch, frames, classes), "
    "override strong_labels(batch), which returns the strong rows and their labels (rows, frames, "
    "classes)"
)


def rows_of(batch_size: Sequence[int]) -> list[slice]:
    """The rows that each set has in a training batch, from the number of its clips there.

    Example:
        >>> rows_of([12, 12, 24])
        [slice(0, 12, None), slice(12, 24, None), slice(24, 48, None)]
    """
    return [slice(stop - size, stop) for stop, size in zip(accumulate(batch_size), batch_size)]


class CoherenceMixin:
    """Add the coherence term to the `training_step` of a LightningModule.

    Put it first: `class Coherence(CoherenceMixin, SEDTask4_2021): pass`. The defaults fit the DCASE
    Task 4 baselines of 2021 to 2023: the network is `self.sed_student`, else the module itself, the
    settings are `self.hparams["coherence"]` (see :class:`~dcase_coherence.settings.Settings`), the
    strong rows come first in the batch and its labels are `(batch, classes, frames)`. Override
    :meth:`strong_labels` or :meth:`configure_coherence` where a trainer differs. Its optimisation
    is automatic: under a manual one call a :class:`~dcase_coherence.CoherenceRegularizer`.

    Logged, beside what the trainer logs: the regularizers' metrics, as `train/coherence/*`. Under
    DDP these are the values of the whole batch, the same in all processes. Checkpoints load in the
    unmodified trainer.
    """

    coherence: CoherenceTerms

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
        terms = self.configure_coherence()
        self.coherence = terms if isinstance(terms, CoherenceTerms) else CoherenceTerms([terms])
        heads = [term.loss for term in self.coherence if list(term.loss.parameters())]
        if heads:
            setattr(self, HEADS, nn.ModuleList(heads))

    def configure_coherence(self) -> Union[CoherenceRegularizer, CoherenceTerms]:
        """Build the terms; by default on `sed_student` from `hparams["coherence"]`.

        Raises:
            TypeError: when nothing tells the strong rows; the message says what is needed.
        """
        if type(self).strong_labels is CoherenceMixin.strong_labels:
            self._strong_rows()
        hparams = self.hparams  # type: ignore[attr-defined]
        settings = Settings(hparams.get("coherence") or {})
        network: Any = getattr(self, "sed_student", self)
        return settings.build(network, hparams.get("net"))

    def strong_labels(self, batch: Any) -> tuple[Union[slice, Tensor], Tensor]:
        """Rows of the batch with strong labels, and those labels as the supervised loss saw them.

        Called after the trainer's own step, which mixes up the labels of `batch[1]` in place.

        Returns:
            rows (a slice, bool mask or indices) and labels `(rows, frames, classes)`, or of the
            whole batch.
        """
        rows = self._strong_rows()
        labels = batch[1][rows]
        classes = (self.hparams.get("net") or {}).get("nclass")  # type: ignore[attr-defined]
        # Read the wrong way, labels and posteriors may still fit each other.
        if labels.shape[1] > labels.shape[2] and labels.shape[1] != classes:
            raise ValueError(f"labels have shape {tuple(labels.shape)}; {NEEDS}")
        return rows, labels.transpose(1, 2)

    def _strong_rows(self) -> slice:
        try:
            return rows_of(self.hparams["training"]["batch_size"])[0]  # type: ignore[attr-defined]
        except (AttributeError, KeyError, TypeError):
            raise TypeError(f"{type(self).__name__}: {NEEDS}") from None

    def training_step(self, batch: Any, batch_indx: int, *args: Any, **kwargs: Any) -> Any:
        """Make the trainer's own step, then add the terms to its loss.

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
        self.coherence.begin()
        try:
            output = super().training_step(batch, batch_indx, *args, **kwargs)  # type: ignore[misc]
        except RuntimeError:
            # A cross-entropy of NaN posteriors raises from its depths; say what happened instead.
            self.coherence.check_features()
            raise
        if output is None:
            return None
        rows, labels = self.strong_labels(batch)
        try:
            term = self.coherence(labels, rows, self._epochs_done(batch_indx))
        except ValueError as error:
            raise ValueError(f"{error}; {NEEDS}") from None
        metrics = self.coherence.metrics
        for name, value in metrics.items():
            if not math.isnan(value):
                self.log(f"train/coherence/{name}", value)  # type: ignore[attr-defined]
        loss = (output["loss"] if isinstance(output, dict) else output) + term
        # In all processes at once: one that stopped alone would leave the others waiting.
        total = sum_over_processes(loss.detach().reshape(1))[0]
        check_finite(total, "the training loss", metrics.get("z_norm", math.nan))
        return {**output, "loss": loss} if isinstance(output, dict) else loss

    def configure_optimizers(self) -> Any:
        """Give the trainer's optimizer the parameters of a head, too."""
        configured = super().configure_optimizers()  # type: ignore[misc]
        heads = getattr(self, HEADS, None)
        if heads is not None:
            first = configured
            while isinstance(first, (list, tuple, dict)):
                first = first["optimizer"] if isinstance(first, dict) else first[0]
            first.add_param_group({"params": list(heads.parameters())})
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep a head apart from the network, which then loads in the unmodified trainer."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        state = checkpoint.get("state_dict", {})
        heads = [name for name in state if name.startswith(f"{HEADS}.")]
        if heads:
            checkpoint[HEADS] = {name: state.pop(name) for name in heads}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put a head back where it was."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint["state_dict"].update(checkpoint.get(HEADS, {}))

    def _epochs_done(self, batch_indx: int) -> float:
        """Fractional epoch, so that the annealing is smooth however long an epoch is.

        Where the ramp is told in steps, or the loader has no length, it is the epoch that the ramp
        would have reached after as many steps.
        """
        trainer = getattr(self, "_trainer", None) or self.__dict__.get("trainer")
        if trainer is None:
            return math.inf
        steps, batches = self.coherence.annealing_steps, trainer.num_training_batches
        known = 0 < batches < math.inf
        if steps is None and not known and (trainer.max_steps or -1) > 0:
            steps = RAMP * trainer.max_steps
        if steps is not None:
            ramp = max((getattr(t.annealing, "epochs", 0.0) for t in self.coherence), default=0.0)
            return ramp * trainer.global_step / steps if steps else math.inf
        return trainer.current_epoch + (batch_indx / batches if known else 0.0)
