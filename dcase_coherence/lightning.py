"""The coherence term for LightningModules, as a mixin in front of the trainer's class."""

from __future__ import annotations

import copy
import math
from itertools import accumulate
from typing import Any, Mapping, Sequence, Union

from torch import Tensor, nn

from dcase_coherence.annealing import ExponentialAnnealing, LinearAnnealing
from dcase_coherence.loss import CoherenceLoss
from dcase_coherence.pseudo import TeacherLabels, check_pseudo_labels
from dcase_coherence.regularizer import CoherenceRegularizer, check_finite, sum_over_processes

#: Settings of the loss by name, for `coherence.preset`: the paper's, and steps instead of pulses.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {
        "alpha1": 0.1,
        "alpha2": 0.03,
        "lags": [1],
        "margin": None,
        "normalize": False,
        "center": False,
    },
    "steps": {
        "alpha1": 0.3,
        "alpha2": 0.3,
        "lags": [1, 2, 4, 8],
        "margin": None,
        "normalize": True,
        "center": True,
    },
}
#: The `coherence:` section of a configuration, with the paper's settings.
DEFAULTS = {
    **PRESETS["exact"],
    "reduction": "mean",
    "tolerance": 0.0,
    "annealing": "linear",
    "annealing_epochs": 5.0,
    "path": "cnn",
    "then": None,
    "layout": None,
    "pseudo": None,
}
#: What `coherence.pseudo` holds where it is given: labels for rows without strong ones.
PSEUDO = {"threshold": 0.5, "band": 0.05, "rows": ["weak", "unlabelled"]}
ANNEALINGS = {"linear": LinearAnnealing, "exponential": ExponentialAnnealing}


def settings_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a `coherence:` section gives: those of its `preset`, and its own before them.

    Args:
        section: some or all keys of :data:`DEFAULTS`, and of which of :data:`PRESETS` those of
            the loss are that it leaves out.

    Returns:
        The section without `preset`.

    Raises:
        ValueError: there is no such preset.

    Example:
        >>> settings_of({"preset": "steps", "alpha2": 0.1, "path": "cnn"})["lags"]
        [1, 2, 4, 8]
        >>> settings_of({"alpha2": 0.1})
        {'alpha2': 0.1}
    """
    own = dict(section)
    if "preset" not in own:
        return own
    preset = own.pop("preset")
    if preset not in list(PRESETS):  # a YAML list cannot be looked up in a dictionary
        raise ValueError(f"coherence: preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    return {**copy.deepcopy(PRESETS[preset]), **own}


def preset_over(section: Mapping[str, Any] | None, asked: str | None) -> str | None:
    """Preset that the recipes lay over a `coherence:` section.

    Args:
        section: what the configuration has, if anything.
        asked: the preset that the command names, if it does.

    Returns:
        The one asked for; else none, as the section counts, and `steps` where there is no section.

    Example:
        >>> preset_over(None, None), preset_over({"alpha1": 0.2}, None), preset_over(None, "exact")
        ('steps', None, 'exact')
    """
    return asked or (None if section else "steps")


def build_regularizer(model: Any, settings: Mapping[str, Any]) -> CoherenceRegularizer:
    """Make the regularizer that a `coherence:` section describes.

    Args:
        model: the model to tap.
        settings: some or all keys of :data:`DEFAULTS`, and `preset` (see :func:`settings_of`);
            what is not given is the paper's.

    Raises:
        ValueError: for an unknown key, an unknown preset or a value out of its range.

    Example:
        >>> from torch import nn
        >>> build_regularizer(nn.Sequential(nn.Linear(2, 2)), {"path": "0", "alpha1": 0.3}).loss
        CoherenceLoss(alpha1=0.3, alpha2=0.03, lags=(1,), reduction='mean', margin=None, \
normalize=False, center=False, tolerance=0.0)
    """
    settings = settings_of(settings)
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"coherence: unknown key {unknown[0]!r}; the keys are: preset, {', '.join(DEFAULTS)}"
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


def rows_of(batch_size: Sequence[int]) -> list[slice]:
    """The rows that each set has in a training batch.

    Args:
        batch_size: `training.batch_size`: how many clips a batch has of each set, in their order;
            in the DCASE Task 4 baselines of 2021 to 2023 strong, weak, unlabelled.

    Example:
        >>> rows_of([12, 12, 24])
        [slice(0, 12, None), slice(12, 24, None), slice(24, 48, None)]
    """
    return [slice(stop - size, stop) for stop, size in zip(accumulate(batch_size), batch_size)]


def teacher_labels_of(pseudo: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`~dcase_coherence.pseudo.TeacherLabels` that a configuration gives.

    Args:
        pseudo: the mapping under `coherence.pseudo`, with some or all keys of :data:`PSEUDO`.
        training: the `training:` section.

    Raises:
        ValueError: naming the key of either that cannot be used.

    Example:
        >>> training = {"batch_size": [12, 12, 24], "n_epochs_warmup": 50, "median_window": 7}
        >>> arguments = teacher_labels_of({"rows": ["unlabelled"]}, training)
        >>> arguments["rows"], arguments["after"]
        (slice(24, 48, None), 50)
    """
    if not isinstance(pseudo, Mapping):
        raise ValueError(
            f"coherence.pseudo is {pseudo!r}; give keys and values ({', '.join(PSEUDO)}), {{}} for "
            "the defaults, or leave it empty"
        )
    unknown = [key for key in pseudo if key not in PSEUDO]
    if unknown:
        raise ValueError(
            f"coherence.pseudo: unknown key {unknown[0]!r}; the keys are: {', '.join(PSEUDO)}"
        )
    values: dict = {**PSEUDO, **pseudo}
    try:
        check_pseudo_labels(values["threshold"], values["band"])
    except ValueError as error:
        raise ValueError(f"coherence.pseudo.{error}") from None
    teacher = training.get("teacher", True)
    if teacher is not True:
        raise ValueError(
            "coherence.pseudo takes its labels from the teacher and training.teacher is "
            f"{str(teacher).lower()}; give training.teacher: true or leave coherence.pseudo empty"
        )
    missing = [key for key in ("n_epochs_warmup", "median_window") if key not in training]
    if missing:
        raise ValueError(f"coherence.pseudo needs training.{missing[0]}; add it")
    sizes = training["batch_size"]
    if len(sizes) != 3:
        raise ValueError(
            f"training.batch_size is {sizes}; coherence.pseudo needs [strong, weak, unlabelled], "
            "as in the baselines of 2021 to 2023"
        )
    names, chosen = ("weak", "unlabelled"), values["rows"]
    known = isinstance(chosen, (list, tuple)) and all(name in names for name in chosen)
    if not known or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"coherence.pseudo.rows is {chosen!r}; give a list of one or both of {', '.join(names)}"
        )
    shares = dict(zip(names, rows_of(sizes)[1:]))
    for name in chosen:
        if shares[name].start == shares[name].stop:
            raise ValueError(
                f"coherence.pseudo.rows has {name!r} and training.batch_size {list(sizes)} has no "
                "such clip; leave it out of the rows or give it a share"
            )
    # Neighbours in the batch, so both together are one slice.
    rows = slice(min(shares[n].start for n in chosen), max(shares[n].stop for n in chosen))
    return {
        "rows": rows,
        "threshold": values["threshold"],
        "band": values["band"],
        "median_window": training["median_window"],
        "after": training["n_epochs_warmup"],
    }


class CoherenceMixin:
    """Add the coherence term to the `training_step` of a mean-teacher LightningModule.

    Put it first: `class Coherence(CoherenceMixin, SEDTask4_2021): pass`. The defaults fit the DCASE
    Task 4 baselines of 2021 to 2023: the student is `self.sed_student`, the settings are
    `self.hparams["coherence"]`, the strong rows come first in the batch and its labels are
    `(batch, classes, frames)`. The trainer's optimisation is automatic: under manual optimisation
    call a :class:`~dcase_coherence.regularizer.CoherenceRegularizer` before `manual_backward`.
    Override :meth:`strong_labels`, :meth:`configure_coherence` or :meth:`configure_pseudo`
    where a trainer differs.

    With `hparams["coherence"]["pseudo"]`, the weak and unlabelled rows, or one of them, get a term
    of their own, with what the teacher is sure of as labels (see
    :func:`~dcase_coherence.pseudo_labels`). Its labels are those of the forward pass that the
    trainer makes of `self.sed_teacher`, `(batch, classes, frames)`; it is annealed in as the
    first term is, after the warm-up of the consistency (`training.n_epochs_warmup`).

    Logged, beside what the trainer logs: `train/coherence/` + `term`, `weight`, `z_norm`,
    `d_boundary`, `d_inside`, `boundary_rate`, `threshold_ratio`, `pulse_share`, and with pseudo-
    labels `pseudo_term`, `pseudo_weight`, `pseudo_frames`, `pseudo_boundary_rate`
    (see :class:`~dcase_coherence.regularizer.CoherenceRegularizer`). Under DDP these are the
    values of the whole batch, the same in all processes.
    """

    coherence: CoherenceRegularizer
    teacher_labels: Union[TeacherLabels, None]

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
        self.teacher_labels = self.configure_pseudo()

    def configure_coherence(self) -> CoherenceRegularizer:
        """Build the regularizer; by default on `sed_student` from `hparams["coherence"]`."""
        return build_regularizer(
            self.sed_student,  # type: ignore[attr-defined]
            self.hparams.get("coherence") or {},  # type: ignore[attr-defined]
        )

    def configure_pseudo(self) -> TeacherLabels | None:
        """Tap `sed_teacher` where `hparams["coherence"]["pseudo"]` is given.

        Raises:
            ValueError: there is no teacher, or a setting cannot be used.
        """
        hparams = self.hparams  # type: ignore[attr-defined]
        pseudo = (hparams.get("coherence") or {}).get("pseudo")
        if pseudo is None:
            return None
        arguments = teacher_labels_of(pseudo, hparams["training"])
        teacher = getattr(self, "sed_teacher", None)
        if teacher is None:
            raise ValueError(
                f"coherence.pseudo takes its labels from the teacher and {type(self).__name__} has "
                "no sed_teacher; leave coherence.pseudo empty"
            )
        return TeacherLabels(teacher, **arguments)

    def strong_labels(self, batch: Any) -> tuple[Union[slice, Tensor], Tensor]:
        """Rows of the batch with strong labels, and those labels as the supervised loss saw them.

        Called after the trainer's own step, which mixes up the labels of `batch[1]` in place.

        Returns:
            rows (a slice, bool mask or indices) and labels `(rows, frames, classes)`, or of the
            whole batch.
        """
        rows = rows_of(self.hparams["training"]["batch_size"])[0]  # type: ignore[attr-defined]
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
        if self.teacher_labels is not None:
            self.teacher_labels.begin()
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
        epoch = self._epochs_done(batch_indx)
        pseudo = None if self.teacher_labels is None else self.teacher_labels(epoch)
        term = self.coherence(labels, rows=rows, epoch=epoch, pseudo=pseudo)
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
