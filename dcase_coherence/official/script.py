"""Run an official training script with the coherence subclass in the place of its trainer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import torch

from dcase_coherence.official import shims
from dcase_coherence.official.environments import missing_packages, refuse_lightning
from dcase_coherence.official.errors import InputError, PathLike
from dcase_coherence.official.trainers import (
    SCRIPTS,
    check_section,
    default_conf_file,
    derive,
    importable,
    read_config,
    recipe_folder,
    refuse_drift,
    trainer_class,
    trainer_module,
)

ARMS = ("baseline", "coherence")
CHECKPOINTS = [f"{use}_from_checkpoint" for use in ("resume", "test", "eval")]


class OfficialRun(NamedTuple):
    """What an official script left: its log folder, its best checkpoint, its last metrics."""

    log_dir: Path
    checkpoint: Path | None
    metrics: dict[str, float]

    @property
    def scores(self) -> dict[str, float]:
        """Those of the metrics that the test gave; the years call them by different names."""
        return {name: value for name, value in self.metrics.items() if name.startswith("test/")}


def run_official(
    path: PathLike,
    recipe: str = "dcase2021_task4_baseline",
    argv: Sequence[str] = (),
    *,
    arm: str = "coherence",
    trainer: str | None = None,
    allow_drift: bool = False,
    preset: str | None = None,
) -> OfficialRun:
    """Run a recipe's own training script, with the coherence subclass in its trainer's place.

    The script runs in the recipe's folder, as it expects (the relative paths of its yaml start
    there); paths in `argv` start from the current folder. The `coherence:` section may stand in
    the yaml given with `--conf_file`; what is wrong with it is said before any data is prepared.
    Without `--log_dir`, logs go to `exp/<recipe>_<arm>` of the current folder. Where there is no
    GPU the run goes on on the CPU, and says so. On today's stack the shims of
    :mod:`dcase_coherence.official.shims` are applied.

    Args:
        path: a checkout of DESED_task.
        recipe: a folder of its `recipes/`.
        argv: flags of the official script, passed through.
        arm: `coherence`, or `baseline` for the untouched trainer.
        trainer: `sed_trainer` or `sed_trainer_pretrained`, see :func:`load_baseline`.
        allow_drift: train also where :func:`find_drift` finds something.
        preset: of the term, `transitions`, `steps` or `exact` (the paper's): it overrides the
            `coherence:` section. By default the section counts, and `steps` where there is none.

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
    for name in CHECKPOINTS:
        checkpoint = flags[name]
        if checkpoint is not None:
            if not checkpoint.is_file():
                raise InputError(f"--{name} {checkpoint} is not a file")
            passed_on += [f"--{name}", str(checkpoint)]
    passed_on += ["--conf_file", str(conf_file), "--log_dir", str(log_dir)]
    training = flags["test_from_checkpoint"] is None and flags["eval_from_checkpoint"] is None

    with contextlib.ExitStack() as stack:
        stack.enter_context(missing_packages(recipe))
        refuse_lightning(recipe)
        applied = stack.enter_context(shims.shims())
        stack.enter_context(importable(path, recipe))
        if training and not allow_drift:
            refuse_drift(recipe, module_name, config)
        settings = check_section(recipe, config, preset)
        module = importlib.import_module(f"local.{module_name}")
        official, coherence = derive(trainer_class(module), recipe, preset)
        if applied:
            print(f"shims for this stack: {', '.join(applied)}")
        print(f"{recipe}: official {SCRIPTS[module_name]}, arm {arm}, logs below {log_dir}")
        if arm == "coherence":
            stack.enter_context(_module_with(module, official.__name__, coherence))
            if training:
                print("coherence: " + ", ".join(f"{key}={settings[key]}" for key in settings))
        script = folder / SCRIPTS[module_name]
        stack.enter_context(_as_script(script, passed_on))
        trainers = stack.enter_context(_watched_trainer(log_dir, arm))
        runpy.run_path(str(script), run_name="__main__")
    result = _result(log_dir, trainers)
    for name, value in result.scores.items():
        print(f"{name}: {value:.4f}")
    return result


def _official_flags(argv: Sequence[str]) -> tuple[dict[str, Path | None], list[str]]:
    """Flags that name a file or folder, as absolute paths, and all the others as they are."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("conf_file", "log_dir", *CHECKPOINTS):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).expanduser().resolve())
    known, others = parser.parse_known_args(list(argv))
    return vars(known), others


@contextlib.contextmanager
def _as_script(script: Path, argv: list[str]) -> Iterator[None]:
    """Command line, path and working folder that a script finds when it is started by hand."""
    folder_before = os.getcwd()
    os.chdir(script.parent)
    try:
        with shims.patched(sys, "argv", [script.name, *argv]), shims.patched(
            sys, "path", [str(script.parent), *sys.path]
        ):
            yield
    finally:
        os.chdir(folder_before)


@contextlib.contextmanager
def _module_with(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Let imports of a module find a name replaced.

    The module itself stays as it is: its class reaches its own name through its globals
    (`super(SEDTask4, self)`), and would find the subclass there.
    """
    stand_in = ModuleType(module.__name__)
    vars(stand_in).update({**vars(module), name: value})
    sys.modules[module.__name__] = stand_in
    try:
        yield
    finally:
        sys.modules[module.__name__] = module


@contextlib.contextmanager
def _watched_trainer(log_dir: Path, arm: str) -> Iterator[list[Any]]:
    """Keep the Trainers that a script makes, and make them on the CPU where there is no GPU."""
    import pytorch_lightning

    trainers: list[Any] = []

    class Trainer(pytorch_lightning.Trainer):  # a class, as Lightning asks for instances of it
        def __init__(self, **arguments: Any) -> None:
            # The scripts log their tests to the working folder, which here is the checkout.
            arguments.setdefault("default_root_dir", str(log_dir))
            if not torch.cuda.is_available():
                arguments = on_cpu(arguments)
            elif arm == "coherence":
                refuse_ddp(arguments)
            super().__init__(**arguments)
            trainers.append(self)

    with contextlib.ExitStack() as stack:
        stack.enter_context(shims.patched(pytorch_lightning, "Trainer", Trainer))
        if not torch.cuda.is_available():
            # The 2024 trainer asks for the number of its GPU to measure its energy.
            stack.enter_context(shims.patched(torch.cuda, "current_device", lambda: 0))
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
    # Left out: from Lightning 2 on, None is no strategy.
    backends = ("distributed_backend", "strategy")
    changed = {name: value for name, value in arguments.items() if name not in backends}
    if "gpus" in changed:
        changed["gpus"] = 0
    if changed.get("accelerator") == "gpu":
        changed["accelerator"] = "cpu"
    print("no GPU found: the run goes on on the CPU")
    return changed


def refuse_ddp(arguments: Mapping[str, Any]) -> None:
    """Stop before Lightning starts the script again, in processes that know of no subclass."""
    if "ddp" in (arguments.get("strategy"), arguments.get("distributed_backend")):
        raise InputError(
            "training: backend is 'ddp', which starts the official script itself in all processes "
            "but the first: they would train without the term; use one GPU, or the recipe's patch"
        )


def _result(log_dir: Path, trainers: list[Any]) -> OfficialRun:
    if not trainers:
        return OfficialRun(log_dir, None, {})
    trainer = trainers[-1]
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    folder = getattr(trainer.logger, "log_dir", None) or log_dir
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return OfficialRun(Path(folder), Path(best) if best else None, metrics)
