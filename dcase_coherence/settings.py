"""The `coherence:` section of a configuration: its keys, its presets and what is made of it."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any, Mapping

import torch
from torch import nn

from dcase_coherence.annealing import LinearAnnealing
from dcase_coherence.loss import EXACT, STEPS, CoherenceLoss, HeadLoss, TransitionLoss
from dcase_coherence.regularizer import CoherenceRegularizer, CoherenceTerms
from dcase_coherence.tap import LAYOUT, is_layout

#: Every key with its default: no term at all.
DEFAULTS: dict[str, Any] = {
    # The loss of z, eq. (3); of weights 0 its monitor is left.
    **{"alpha1": 0.0, "alpha2": 0.0, "lags": [1], "reduction": "mean", "margin": None},
    **{"normalize": False, "center": False, "tolerance": 0.0},
    # Where z is.
    **{"path": "cnn", "layout": None},
    # The loss of posteriors: transitions, and the frames near a label change.
    **{"transition_weight": 0.0, "transition_lags": [1, 2, 4]},
    **{"boundary_weight": 1.0, "boundary_frames": 3},
    # Where the posteriors are: in DESED_task the student gives (strong, weak), classes first.
    **{"posteriors": 0, "posteriors_layout": "bdt"},
    # The loss of posteriors on a linear head of z, in the place of the model's own.
    "head": False,
    # Epochs over which the terms come in: by default the paper's five for a loss of z, and none for
    # posteriors. The ramp's length in steps counts where it is not empty.
    **{"annealing_epochs": None, "annealing_steps": None},
}
_NOTHING = {
    name: DEFAULTS[name]
    for name in (
        *("alpha1", "alpha2", "margin", "normalize", "center"),
        *("transition_weight", "boundary_weight", "head"),
    )
}
#: Settings by name, for `preset`.
PRESETS: dict[str, dict[str, Any]] = {
    "exact": {**_NOTHING, **EXACT, "lags": list(EXACT["lags"])},
    "steps": {**_NOTHING, **STEPS, "lags": list(STEPS["lags"])},
    "transitions": {**_NOTHING, "transition_weight": 5.0, "transition_lags": [1, 2, 4]},
}
#: Where neither a section nor the user names one.
DEFAULT_PRESET = "steps"


class Settings:
    """Settings of the term, from a `coherence:` section.

    Args:
        section: some or all keys of :data:`DEFAULTS`, and `preset`, one of :data:`PRESETS`, whose
            keys those next to it override.

    Raises:
        ValueError: for an unknown key, an unknown preset or a value out of its range.

    Example:
        >>> settings = Settings({"preset": "transitions", "boundary_weight": 2})
        >>> settings["transition_weight"], settings["boundary_weight"], settings["alpha1"]
        (5.0, 2, 0.0)
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        if not isinstance(section, Mapping):
            raise ValueError(
                f"coherence: is {section!r}; give a section of keys, for instance preset: "
                "transitions"
            )
        own = preset_laid_out(section)
        for key in sorted(map(str, set(own) - set(DEFAULTS))):
            raise ValueError(
                f"coherence: unknown key {key!r}; the keys are: preset, {', '.join(DEFAULTS)}"
            )
        for key, value in own.items():
            _check(key, value)
        self.values: dict[str, Any] = copy.deepcopy({**DEFAULTS, **own})
        if not section:
            warnings.warn(
                "the section `coherence:` is empty, so there is no term; name a preset: "
                f"{', '.join(PRESETS)}",
                stacklevel=2,
            )
        self.losses(1, 1)  # checks the ranges

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def losses(self, dims: int, classes: int) -> list[tuple[str, Any]]:
        """The losses with the place of each, `"z"` or `"posteriors"`; a head has these sizes."""
        v = self.values
        of_z = CoherenceLoss(
            **{name: v[name] for name in inspect.signature(CoherenceLoss).parameters}
        )
        of_posteriors = TransitionLoss(
            v["transition_weight"],
            v["transition_lags"],
            boundary_weight=v["boundary_weight"],
            boundary_frames=v["boundary_frames"],
            dim=1,
        )
        losses: list[tuple[str, Any]] = []
        if v["transition_weight"] > 0 or v["boundary_weight"] != 1:
            if v["head"]:
                # The trainer's random numbers stay those of a training without the term.
                with torch.random.fork_rng(devices=[]):
                    losses.append(("z", HeadLoss(dims, classes, of_posteriors)))
            else:
                losses.append(("posteriors", of_posteriors))
        if v["alpha1"] > 0 or v["alpha2"] > 0 or not losses:
            losses.append(("z", of_z))
        return losses

    def build(self, model: nn.Module, net: Mapping[str, Any] | None = None) -> CoherenceTerms:
        """Make the regularizers, one a loss, and tap the model.

        Args:
            model: the model to tap.
            net: the section `net:` of the baselines, which tells the sizes of the head.

        Raises:
            ValueError: when the model has no such submodule, or there is a head and no `net`.
        """
        v = self.values
        dims = classes = 1
        if v["head"]:
            try:
                dims, classes = net["nb_filters"][-1], net["nclass"]  # type: ignore[index]
            except (KeyError, TypeError):
                raise ValueError(
                    "coherence: head needs net.nb_filters and net.nclass; add them, or make a "
                    "CoherenceRegularizer with HeadLoss(dims, classes, ...) of your own"
                ) from None
        places = {
            "z": (v["path"], v["layout"], None),
            "posteriors": (None, v["posteriors_layout"], v["posteriors"]),
        }
        epochs = v["annealing_epochs"]
        annealing = None if epochs is None else LinearAnnealing(epochs)
        terms = []
        for place, loss in self.losses(dims, classes):
            path, layout, element = places[place]
            terms.append(
                CoherenceRegularizer(
                    model, path, loss=loss, annealing=annealing, layout=layout, element=element
                )
            )
        return CoherenceTerms(terms, v["annealing_steps"])


def _check(key: str, value: Any) -> None:
    """Refuse a value that is not of its key's kind."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    wanted = ""
    if isinstance(DEFAULTS[key], bool) and not isinstance(value, bool):
        wanted = "true or false"
    elif isinstance(DEFAULTS[key], float) and not number:
        wanted = "a number, as 0.001, without quotes"  # YAML takes 1e-3 for a text
    elif key == "path" and not isinstance(value, str):
        wanted = "the name of a submodule"
    elif value is None:
        return
    elif key.endswith("layout") and not is_layout(value):
        wanted = LAYOUT
    elif key == "annealing_epochs":
        LinearAnnealing(value)
    elif key == "annealing_steps" and (not isinstance(value, int) or value < 0):
        wanted = "a whole number of at least 0, or empty"
    if wanted:
        raise ValueError(f"coherence: {key} is {value!r}; it must be {wanted}")


def preset_laid_out(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section with its preset, if any, written out; the keys next to it override it.

    Example:
        >>> preset_laid_out({"preset": "steps", "alpha2": 0.1})["lags"]
        [1, 2, 4, 8]
    """
    own = dict(section)
    if "preset" not in own:
        return own
    preset = own.pop("preset")
    if preset not in list(PRESETS):  # a YAML list cannot be looked up in a dictionary
        raise ValueError(f"coherence: preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    return {**copy.deepcopy(PRESETS[preset]), **own}
