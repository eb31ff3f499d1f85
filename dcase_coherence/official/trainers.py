"""The official DCASE Task 4 baseline (DESED_task): its trainer with the coherence term in front.

Nothing of the original is copied or changed: its own modules are imported from a checkout of
https://github.com/DCASE-REPO/DESED_task.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, NamedTuple

import torch
from torch import Tensor

from dcase_coherence.lightning import CoherenceMixin, rows_of
from dcase_coherence.official import shims
from dcase_coherence.official.environments import missing_packages
from dcase_coherence.official.errors import InputError, PathLike
from dcase_coherence.regularizer import CoherenceTerms
from dcase_coherence.settings import DEFAULT_PRESET, Settings, preset_laid_out

#: The commit of the 2021 baseline, the one that the paper's Table 2 builds on.
PINNED_COMMIT = "63d8b3b2bbf1444e99d5905079e0bfbe34ed7c0d"
REPOSITORY = "https://github.com/DCASE-REPO/DESED_task"

#: The trainer's module in a recipe's `local` package -> the script that trains it, in the order
#: in which they are looked for.
SCRIPTS = {"sed_trainer": "train_sed.py", "sed_trainer_pretrained": "train_pretrained.py"}

#: Recipes whose baseline was published with the 2021 scaler and without SpecAugment.
UNAUGMENTED_RECIPES = ("dcase2021_task4_baseline", "dcase2022_task4_baseline")

#: The strongly labelled sets of the 2024 batch, in its order.
STRONG_SETS_2024 = ("maestro", "synthetic", "real")


class Baseline(NamedTuple):
    """A recipe's trainer class and its subclass with the coherence term."""

    official: type
    coherence: type


class OfficialCoherence(CoherenceMixin):
    """The mixin for the recipes of 2021 to 2023; the settings used are kept with the checkpoint."""

    recipe: str
    preset: str | None  # of :func:`derive`
    hparams: Any
    sed_student: torch.nn.Module

    def configure_coherence(self) -> CoherenceTerms:
        """Build from the `coherence:` section, which is filled up."""
        values, terms = build(self.recipe, self.hparams, self.preset, self.sed_student)
        self.hparams["coherence"] = values
        return terms


class OfficialCoherence2024(OfficialCoherence):
    """The mixin for the 2024 recipe: three strongly labelled sets, classes masked by set.

    The batch is [MAESTRO real, synthetic, real strong + synthetic, weak, unlabelled]. The key
    `strong` of the `coherence:` section names the sets that the term is computed on; `synthetic`
    alone by default. MAESTRO's labels are soft and change a little from frame to frame: give a
    `tolerance` with them.
    """

    def strong_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Rows of the named sets and their labels, masked as the trainer's loss masks them."""
        labels, known_classes = batch[1], batch[4]
        rows = torch.cat(
            [
                torch.arange(of_set.start, of_set.stop, device=labels.device)
                for name, of_set in zip(
                    STRONG_SETS_2024, rows_of(self.hparams["training"]["batch_size"])
                )
                if name in self.hparams["coherence"]["strong"]
            ]
        )
        masked = labels[rows].masked_fill(~known_classes[rows].unsqueeze(-1), 0.0)
        return rows, masked.transpose(1, 2)


def build(
    recipe: str, config: Mapping[str, Any], preset: str | None, student: torch.nn.Module
) -> tuple[dict[str, Any], CoherenceTerms]:
    """Read the `coherence:` section of a recipe's configuration; give it filled up, and its terms.

    `preset` overrides the section; where there is neither it is `steps`. In 2024 the section may
    also name the `strong` sets.
    """
    section = config.get("coherence") or {}
    sets: dict[str, Any] = {}
    try:
        if "2024" in recipe and isinstance(section, Mapping):
            section = dict(section)
            names = sets["strong"] = section.pop("strong", ["synthetic"])
            known = isinstance(names, (list, tuple)) and set(names) <= set(STRONG_SETS_2024)
            if not known or not names:
                raise ValueError(
                    f"strong is {names!r}; give a list of some of {', '.join(STRONG_SETS_2024)}"
                )
        preset = preset or (None if section else DEFAULT_PRESET)
        if preset is not None:
            section = {**section, **preset_laid_out({"preset": preset})}
            section.pop("preset", None)
        settings = Settings(section)
        terms = settings.build(student, config["net"])
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the section `coherence:` cannot be used: {error}") from None
    return {**sets, **settings.values}, terms


def check_section(
    recipe: str, config: Mapping[str, Any], preset: str | None = None
) -> dict[str, Any]:
    """Check a configuration's `coherence:` section against its network, before any data is read.

    To be called within :func:`importable`. Returns the section, filled up, see :func:`build`.
    """
    crnn = importlib.import_module("desed_task.nnet.CRNN").CRNN
    with torch.random.fork_rng():
        try:
            network = crnn(**config["net"])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the section `net:` cannot be used: {error}") from error
        return build(recipe, config, preset, network)[0]


def load_baseline(
    path: PathLike,
    recipe: str = "dcase2021_task4_baseline",
    trainer: str | None = None,
    allow_drift: bool = False,
) -> Baseline:
    """Import a recipe's trainer from a checkout of DESED_task and derive its coherence subclass.

    The recipes of all years call their package `local`: neither it nor `desed_task` stays in
    `sys.modules`, so that any number of recipes and checkouts can be loaded in one process. Use
    :func:`importable` where code of yours imports from them. On today's stack, make and run the
    trainer within :func:`dcase_coherence.official.shims.shims`.

    Args:
        path: the checkout; for the 2021 recipe at commit 63d8b3b.
        recipe: a folder of `recipes/`.
        trainer: `sed_trainer` or `sed_trainer_pretrained`; by default the first that there is.
        allow_drift: load the 2021 or 2022 recipe also beside a scaler or a CRNN that is not the
            published baseline's (see :func:`find_drift`).

    Returns:
        The official class and the subclass, with the mixin first in its MRO.

    Raises:
        InputError: when the folder is not such a checkout, its `desed_task` has drifted, or a
            package that it needs is not installed.
    """
    folder = recipe_folder(path, recipe)
    module_name = trainer_module(folder, trainer)
    with missing_packages(recipe), shims.shims(), importable(path, recipe):
        if not allow_drift:
            refuse_drift(recipe, module_name, default_config(folder, module_name))
        module = importlib.import_module(f"local.{module_name}")
        return derive(trainer_class(module), recipe)


def derive(official: type, recipe: str, preset: str | None = None) -> Baseline:
    """Put the coherence mixin of the recipe's year in front of the official class."""
    mixin = OfficialCoherence2024 if "2024" in recipe else OfficialCoherence
    attributes = {
        "__doc__": f"{official.__name__} of {recipe} with the coherence term.",
        "__module__": __name__,
        "recipe": recipe,
        "preset": preset,
    }
    return Baseline(official, type(f"Coherence{official.__name__}", (mixin, official), attributes))


def recipe_folder(path: PathLike, recipe: str) -> Path:
    """The folder of a recipe, checked."""
    checkout = Path(path).expanduser().resolve()
    folder = checkout / "recipes" / recipe
    if not (checkout / "recipes").is_dir() or not (checkout / "desed_task").is_dir():
        raise InputError(
            f"{path} is not a checkout of DESED_task (it lacks recipes/ or desed_task/); make one "
            f"with: git clone {REPOSITORY} && git -C DESED_task checkout {PINNED_COMMIT[:7]}"
        )
    if not (folder / "local").is_dir():
        recipes = sorted(item.parent.name for item in checkout.glob("recipes/*/local"))
        raise InputError(f"{path} has no recipe {recipe!r}; it has: {', '.join(recipes) or 'none'}")
    return folder


def trainer_module(folder: Path, trainer: str | None) -> str:
    """Name of the trainer's module in a recipe's `local` package, checked."""
    trainers = [name for name in SCRIPTS if (folder / "local" / f"{name}.py").is_file()]
    if trainer is None and trainers:
        return trainers[0]
    if trainer in trainers:
        return str(trainer)
    raise InputError(
        f"{folder.name} has no trainer {trainer or 'sed_trainer'!r} in {folder / 'local'}; "
        f"it has: {', '.join(trainers) or 'none'}"
    )


def trainer_class(module: ModuleType) -> type:
    """The one LightningModule that a trainer's module defines."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and callable(getattr(value, "training_step", None))
    ]
    if len(classes) != 1:
        names = ", ".join(value.__name__ for value in classes) or "none"
        raise InputError(f"{module.__file__} must define one trainer class; it has: {names}")
    return classes[0]


# Modules of the checkouts seen so far, so that a second import gives the same classes.
_MODULES: dict[Path, dict[str, ModuleType]] = {}


@contextlib.contextmanager
def importable(path: PathLike, recipe: str = "dcase2021_task4_baseline") -> Iterator[None]:
    """Make `desed_task` and the recipe's `local` importable from a checkout, for a `with` block.

    Packages of the same name that were imported before are put back at the end. Code that imports
    lazily, or pickles objects of these packages, must run within the block.
    """
    folder = recipe_folder(path, recipe)
    packages = {
        "desed_task": Path(path).expanduser().resolve() / "desed_task",
        "local": folder / "local",
    }
    before = _take_modules(packages)
    try:
        for name, package in packages.items():
            if package in _MODULES:
                sys.modules.update(_MODULES[package])
            else:
                _import_package(name, package)
        yield
    finally:
        imported = _take_modules(packages)
        for name, package in packages.items():
            _MODULES[package] = {
                key: module for key, module in imported.items() if key.split(".")[0] == name
            }
        sys.modules.update(before)


def _take_modules(packages: Mapping[str, Path]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] in packages]
    return {name: sys.modules.pop(name) for name in names}


def _import_package(name: str, folder: Path) -> None:
    # Not by way of sys.path: most of these packages have no __init__.py, and a regular package of
    # the same name anywhere on the path would win over a namespace package.
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, init) if init.is_file() else None
    spec = spec or ModuleSpec(name, None)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(module)


def find_drift(config: Mapping[str, Any]) -> list[str]:
    """How the imported `desed_task` differs from the 2021 baseline's, found by feeding tensors.

    To be called within :func:`importable`. Since April 2024 the minmax scaler ends in [-1, 1]
    instead of [0, 1], and the CRNN applies SpecAugment unless its settings turn it off: both
    change the results of the 2021 and 2022 recipes without a word.
    Gives one clause for each difference.
    """
    settings = config["scaler"]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = importlib.import_module("desed_task.nnet.CRNN").CRNN(**config["net"])
        features = torch.rand(16, config["feats"]["n_mels"], 64)
        reasons = []
        if (settings["statistic"], settings["normtype"]) == ("instance", "minmax"):
            scaler = importlib.import_module("desed_task.utils.scaler").TorchScaler(
                "instance", "minmax", settings["dims"]
            )
            scaled = scaler(features)
            low, high = float(scaled.min()), float(scaled.max())
            if low < -1e-3 or high > 1 + 1e-3:
                reasons.append(
                    f"its minmax scaler ends in [{low:.2g}, {high:.2g}] instead of [0, 1]"
                )
        seen: list[Tensor] = []
        network.train()
        network.cnn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            network(features)
        except Exception as error:  # another year's network, beside the libraries of this one
            reasons.append(f"its CRNN does not run here ({error})")
        if seen and not torch.equal(seen[0], features.transpose(1, 2).unsqueeze(1)):
            reasons.append("its CRNN masks the features before its first layer (SpecAugment)")
    return reasons


def refuse_drift(recipe: str, module_name: str, config: Mapping[str, Any]) -> None:
    """Stop where a recipe would run beside a `desed_task` that is not its own."""
    if recipe not in UNAUGMENTED_RECIPES or module_name != "sed_trainer":
        return
    reasons = find_drift(config)
    if reasons:
        raise InputError(
            f"this desed_task is not the one {recipe} was published with: "
            f"{' and '.join(reasons)}; check its folder out at the pinned commit "
            f"(git checkout {PINNED_COMMIT[:7]} -- desed_task), or give --allow_drift "
            "(allow_drift=True) to go on with what there is"
        )


def read_config(file: Path) -> dict[str, Any]:
    """Read a recipe's yaml, and check that it has the sections that are used here."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InputError(f"cannot read the configuration {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid yaml: {error}") from None
    sections = config if isinstance(config, dict) else {}
    for section in ("training", "data", "feats", "net", "scaler"):
        if not isinstance(sections.get(section), dict):
            raise InputError(f"{file} has no section {section!r}; start from the recipe's own yaml")
    return sections


def default_config(folder: Path, module_name: str) -> dict[str, Any]:
    """The yaml that a recipe's training script reads when none is given."""
    return read_config(folder / default_conf_file(folder, module_name))


def default_conf_file(folder: Path, module_name: str) -> str:
    """Name of that yaml below the recipe's folder."""
    if module_name == "sed_trainer_pretrained":
        return "confs/pretrained.yaml"
    return "confs/sed.yaml" if (folder / "confs" / "sed.yaml").is_file() else "confs/default.yaml"
