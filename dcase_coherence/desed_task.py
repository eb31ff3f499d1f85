"""The official DCASE Task 4 baseline (DESED_task): its trainer with the coherence term in front.

Nothing of the original is copied or changed: its own modules are imported from a checkout of
https://github.com/DCASE-REPO/DESED_task, and its own training script is run with the subclass in
the place of the trainer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, NamedTuple, Sequence, Union

import torch
from torch import Tensor

from dcase_coherence import compat
from dcase_coherence.errors import InputError
from dcase_coherence.lightning import DEFAULTS, CoherenceMixin, build_regularizer
from dcase_coherence.regularizer import CoherenceRegularizer

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

ARMS = ("baseline", "coherence")

PathLike = Union[str, "os.PathLike[str]"]


class Baseline(NamedTuple):
    """A recipe's trainer class and its subclass with the coherence term."""

    official: type
    coherence: type


class OfficialRun(NamedTuple):
    """What an official script left: its log folder, its best checkpoint, its last metrics."""

    log_dir: Path
    checkpoint: Path | None
    metrics: dict[str, float]


class OfficialCoherence(CoherenceMixin):
    """The mixin for the recipes of 2021 to 2023; the settings used are kept with the checkpoint."""

    hparams: Any
    sed_student: torch.nn.Module

    def configure_coherence(self) -> CoherenceRegularizer:
        """Fill the `coherence:` section up with the paper's settings, then build from it."""
        settings = {**DEFAULTS, **(self.hparams.get("coherence") or {})}
        self.hparams["coherence"] = settings
        return checked_regularizer(self.sed_student, settings)


class OfficialCoherence2024(CoherenceMixin):
    """The mixin for the 2024 recipe: three strongly labelled sets, classes masked by set.

    The batch is [MAESTRO real, synthetic, real strong + synthetic, weak, unlabelled]. The key
    `strong` of the `coherence:` section names the sets that the term is computed on; `synthetic`
    alone by default. MAESTRO's labels are soft and change a little from frame to frame: give a
    `tolerance` with them.
    """

    hparams: Any
    sed_student: torch.nn.Module

    def configure_coherence(self) -> CoherenceRegularizer:
        """Build from the `coherence:` section, which here also names the strong sets."""
        settings = {"strong": ["synthetic"], **DEFAULTS, **(self.hparams.get("coherence") or {})}
        self.hparams["coherence"] = settings
        self.strong_sets = check_strong_sets(settings["strong"])
        return checked_regularizer(
            self.sed_student, {key: value for key, value in settings.items() if key != "strong"}
        )

    def strong_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Rows of the named sets and their labels, masked as the trainer's loss masks them."""
        labels, known_classes = batch[1], batch[4]
        sizes = self.hparams["training"]["batch_size"]
        starts = [sum(sizes[:index]) for index in range(len(STRONG_SETS_2024) + 1)]
        rows = torch.cat(
            [
                torch.arange(starts[index], starts[index + 1], device=labels.device)
                for index, name in enumerate(STRONG_SETS_2024)
                if name in self.strong_sets
            ]
        )
        masked = labels[rows].masked_fill(~known_classes[rows].unsqueeze(-1), 0.0)
        return rows, masked.transpose(1, 2)


def checked_regularizer(
    student: torch.nn.Module, settings: Mapping[str, Any]
) -> CoherenceRegularizer:
    """Build the regularizer of a `coherence:` section that a user wrote.

    Raises:
        InputError: for an unknown key or a value out of its range.
    """
    try:
        return build_regularizer(student, settings)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the section `coherence:` cannot be used: {error}") from error


def check_strong_sets(names: Any) -> tuple[str, ...]:
    """Check the names of the strongly labelled sets of the 2024 recipe.

    Raises:
        InputError: for an empty list or an unknown name.

    Example:
        >>> check_strong_sets(["synthetic", "real"])
        ('synthetic', 'real')
    """
    known = f"a list of some of {', '.join(STRONG_SETS_2024)}"
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"coherence: strong is {names!r}; give {known}")
    for name in names:
        if name not in STRONG_SETS_2024:
            raise InputError(f"coherence: strong holds {name!r}; give {known}")
    return tuple(names)


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
    trainer within :func:`dcase_coherence.compat.shims`.

    Args:
        path: the checkout; for the 2021 recipe at commit 63d8b3b.
        recipe: a folder of `recipes/`.
        trainer: `sed_trainer` or `sed_trainer_pretrained`; by default the first that there is.
        allow_drift: load the 2021 or 2022 recipe also beside a scaler or a CRNN that is not the
            published baseline's (see :func:`find_drift`).

    Returns:
        The official class and the subclass, with the mixin first in its MRO.

    Raises:
        InputError: when the folder is not such a checkout, or its `desed_task` has drifted.
    """
    folder = recipe_folder(path, recipe)
    module_name = trainer_module(folder, trainer)
    with compat.shims(), importable(path, recipe):
        if not allow_drift:
            refuse_drift(recipe, module_name, default_config(folder, module_name))
        module = importlib.import_module(f"local.{module_name}")
        return derive(trainer_class(module), recipe)


def derive(official: type, recipe: str) -> Baseline:
    """Put the coherence mixin of the recipe's year in front of the official class."""
    mixin = OfficialCoherence2024 if "2024" in recipe else OfficialCoherence
    attributes = {
        "__doc__": f"{official.__name__} of {recipe} with the coherence term.",
        "__module__": __name__,
    }
    return Baseline(official, type(f"Coherence{official.__name__}", (mixin, official), attributes))


def recipe_folder(path: PathLike, recipe: str) -> Path:
    """The folder of a recipe, checked.

    Raises:
        InputError: when the checkout, the recipe or one of its packages is not there.
    """
    checkout = Path(path).expanduser().resolve()
    folder = checkout / "recipes" / recipe
    if not (checkout / "recipes").is_dir() or not (checkout / "desed_task").is_dir():
        raise InputError(
            f"{path} is not a checkout of DESED_task (it lacks recipes/ or desed_task/); make one "
            f"with: git clone {REPOSITORY} && git -C DESED_task checkout {PINNED_COMMIT[:7]}"
        )
    if not (folder / "local").is_dir():
        found = sorted(item.parent.name for item in checkout.glob("recipes/*/local"))
        raise InputError(f"{path} has no recipe {recipe!r}; it has: {', '.join(found) or 'none'}")
    return folder


def trainer_module(folder: Path, trainer: str | None) -> str:
    """Name of the trainer's module in a recipe's `local` package.

    Raises:
        InputError: when the recipe has no such trainer.
    """
    found = [name for name in SCRIPTS if (folder / "local" / f"{name}.py").is_file()]
    if trainer is None and found:
        return found[0]
    if trainer in found:
        return str(trainer)
    raise InputError(
        f"{folder.name} has no trainer {trainer or 'sed_trainer'!r} in {folder / 'local'}; "
        f"it has: {', '.join(found) or 'none'}"
    )


def trainer_class(module: ModuleType) -> type:
    """The one LightningModule that a trainer's module defines.

    Raises:
        InputError: when there is none, or more than one.
    """
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and callable(getattr(value, "training_step", None))
    ]
    if len(found) != 1:
        names = ", ".join(value.__name__ for value in found) or "none"
        raise InputError(f"{module.__file__} must define one trainer class; it has: {names}")
    return found[0]


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
            known = _MODULES.get(package)
            if known is None:
                _import_package(name, package)
            else:
                sys.modules.update(known)
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
    if init.is_file():
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    else:
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module


def find_drift(config: Mapping[str, Any]) -> list[str]:
    """How the imported `desed_task` differs from the 2021 baseline's, found by feeding tensors.

    To be called within :func:`importable`. Since April 2024 the minmax scaler ends in [-1, 1]
    instead of [0, 1], and the CRNN applies SpecAugment unless its settings turn it off: both
    change the results of the 2021 and 2022 recipes without a word.

    Args:
        config: the recipe's configuration, of which `scaler` and `net` are used.

    Returns:
        One clause for each difference.
    """
    settings = config["scaler"]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = importlib.import_module("desed_task.nnet.CRNN").CRNN(**config["net"])
        bands = config["feats"]["n_mels"]
        features = torch.rand(16, bands, 64)
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
    """Stop where a recipe would run beside a `desed_task` that is not its own.

    Raises:
        InputError: with what differs and the two ways out.
    """
    if recipe not in UNAUGMENTED_RECIPES or module_name != "sed_trainer":
        return
    reasons = find_drift(config)
    if reasons:
        raise InputError(
            f"this desed_task is not the one {recipe} was published with: "
            f"{' and '.join(reasons)}; check its folder out at the pinned commit "
            f"(git checkout {PINNED_COMMIT[:7]} -- desed_task), or give --allow-drift "
            "(allow_drift=True) to go on with what there is"
        )


def read_config(file: Path) -> dict[str, Any]:
    """Read a recipe's yaml.

    Raises:
        InputError: when the file is not there or is not a mapping of sections.
    """
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InputError(f"cannot read the configuration {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid yaml: {error}") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} holds no sections; give a copy of the recipe's own yaml")
    for section in ("training", "data", "feats", "net", "scaler"):
        if not isinstance(config.get(section), dict):
            raise InputError(f"{file} has no section {section!r}; start from the recipe's own yaml")
    return config


def default_config(folder: Path, module_name: str) -> dict[str, Any]:
    """The yaml that a recipe's training script reads when none is given."""
    return read_config(folder / default_conf_file(folder, module_name))


def default_conf_file(folder: Path, module_name: str) -> str:
    """Name of that yaml below the recipe's folder."""
    if module_name == "sed_trainer_pretrained":
        return "confs/pretrained.yaml"
    return "confs/sed.yaml" if (folder / "confs" / "sed.yaml").is_file() else "confs/default.yaml"


def run_official(
    path: PathLike,
    recipe: str = "dcase2021_task4_baseline",
    argv: Sequence[str] = (),
    *,
    arm: str = "coherence",
    trainer: str | None = None,
    allow_drift: bool = False,
) -> OfficialRun:
    """Run a recipe's own training script, with the coherence subclass in its trainer's place.

    The script runs in the recipe's folder, as it expects (the relative paths of its yaml start
    there); paths in `argv` start from the current folder. The `coherence:` section may stand in
    the yaml given with `--conf_file`; without one the paper's settings are used. Without
    `--log_dir`, logs go to `exp/<recipe>_<arm>` of the current folder. Where there is no GPU the
    run goes on on the CPU, and says so. On today's stack the shims of
    :mod:`dcase_coherence.compat` are applied.

    Args:
        path: a checkout of DESED_task.
        recipe: a folder of its `recipes/`.
        argv: flags of the official script, passed through.
        arm: `coherence`, or `baseline` for the untouched trainer.
        trainer: `sed_trainer` or `sed_trainer_pretrained`, see :func:`load_baseline`.
        allow_drift: train also where :func:`find_drift` finds something.

    Raises:
        InputError: for a folder, a file or a value that cannot be used.
    """
    if arm not in ARMS:
        raise InputError(f"arm is {arm!r}; it must be one of {', '.join(ARMS)}")
    folder = recipe_folder(path, recipe)
    module_name = trainer_module(folder, trainer)
    flags, passed_on = _official_flags(argv)
    conf_file = flags["conf_file"] or folder / default_conf_file(folder, module_name)
    log_dir = flags["log_dir"] or Path.cwd() / "exp" / f"{recipe}_{arm}"
    config = read_config(conf_file)
    for name in ("resume_from_checkpoint", "test_from_checkpoint", "eval_from_checkpoint"):
        checkpoint = flags[name]
        if checkpoint is not None:
            if not checkpoint.is_file():
                raise InputError(f"--{name} {checkpoint} is not a file")
            passed_on += [f"--{name}", str(checkpoint)]
    passed_on += ["--conf_file", str(conf_file), "--log_dir", str(log_dir)]
    training = flags["test_from_checkpoint"] is None and flags["eval_from_checkpoint"] is None

    with compat.shims() as applied, importable(path, recipe):
        if applied:
            print(f"shims for this stack: {', '.join(applied)}")
        if training and not allow_drift:
            refuse_drift(recipe, module_name, config)
        module = importlib.import_module(f"local.{module_name}")
        official, coherence = derive(trainer_class(module), recipe)
        print(f"{recipe}: official {SCRIPTS[module_name]}, arm {arm}, logs below {log_dir}")
        substitute = {official.__name__: coherence} if arm == "coherence" else {}
        script = folder / SCRIPTS[module_name]
        with _as_script(script, passed_on), _module_with(module, substitute), _watched_trainer(
            log_dir
        ) as trainers:
            runpy.run_path(str(script), run_name="__main__")
    return _result(log_dir, trainers)


def _official_flags(argv: Sequence[str]) -> tuple[dict[str, Path | None], list[str]]:
    """Flags that name a file or folder, as absolute paths, and all the others as they are."""
    names = [
        "conf_file",
        "log_dir",
        "resume_from_checkpoint",
        "test_from_checkpoint",
        "eval_from_checkpoint",
    ]
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(f"--{name}")
    known, rest = parser.parse_known_args(list(argv))
    given = {name: getattr(known, name) for name in names}
    paths = {
        name: None if value is None else Path(value).expanduser().resolve()
        for name, value in given.items()
    }
    return paths, rest


@contextlib.contextmanager
def _as_script(script: Path, argv: list[str]) -> Iterator[None]:
    """Command line, path and working folder that a script finds when it is started by hand."""
    argv_before, path_before, folder_before = sys.argv, list(sys.path), os.getcwd()
    sys.argv = [script.name, *argv]
    sys.path.insert(0, str(script.parent))
    os.chdir(script.parent)
    try:
        yield
    finally:
        os.chdir(folder_before)
        sys.path[:] = path_before
        sys.argv = argv_before


@contextlib.contextmanager
def _module_with(module: ModuleType, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Let imports of a module find some names replaced.

    The module itself stays as it is: its class reaches its own name through its globals
    (`super(SEDTask4, self)`), and would find the subclass there.
    """
    stand_in = ModuleType(module.__name__)
    stand_in.__dict__.update(vars(module))
    stand_in.__dict__.update(attributes)
    sys.modules[module.__name__] = stand_in
    try:
        yield
    finally:
        sys.modules[module.__name__] = module


@contextlib.contextmanager
def _watched_trainer(log_dir: Path) -> Iterator[list[Any]]:
    """Keep the Trainers that a script makes, and make them on the CPU where there is no GPU."""
    import pytorch_lightning

    trainers: list[Any] = []

    class Trainer(pytorch_lightning.Trainer):  # a class, as Lightning asks for instances of it
        def __init__(self, **arguments: Any) -> None:
            # The scripts log their tests to the working folder, which here is the checkout.
            arguments.setdefault("default_root_dir", str(log_dir))
            super().__init__(**(arguments if torch.cuda.is_available() else on_cpu(arguments)))
            trainers.append(self)

    with contextlib.ExitStack() as stack:
        stack.enter_context(compat.patched(pytorch_lightning, "Trainer", Trainer))
        if not torch.cuda.is_available():
            # The 2024 trainer asks for the number of its GPU to measure its energy.
            stack.enter_context(compat.patched(torch.cuda, "current_device", lambda: 0))
        yield trainers


def on_cpu(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Trainer arguments of an official script (Lightning 1.2 to 1.9), changed to run on the CPU.

    `--gpus 0` is GPU number 0 to the 2021 script, whose Lightning takes a string for an index;
    the `backend: dp` of the later yaml files cannot run without a GPU.

    Example:
        >>> on_cpu({"gpus": "0", "max_epochs": 3})
        no GPU found: the run goes on on the CPU
        {'gpus': 0, 'max_epochs': 3}
    """
    changed = dict(arguments)
    if "gpus" in changed:
        changed["gpus"] = 0
    if changed.get("accelerator") == "gpu":
        changed["accelerator"] = "cpu"
    for name in ("distributed_backend", "strategy"):
        if changed.get(name) is not None:
            changed[name] = None
    print("no GPU found: the run goes on on the CPU")
    return changed


def _result(log_dir: Path, trainers: list[Any]) -> OfficialRun:
    if not trainers:
        return OfficialRun(log_dir, None, {})
    trainer = trainers[-1]
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    folder = getattr(trainer.logger, "log_dir", None) or log_dir
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return OfficialRun(Path(folder), Path(best) if best else None, metrics)
