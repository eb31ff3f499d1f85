"""What the commands of the recipes that train have in common."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from lab.devices import own_rank
from lab.errors import INSTALL, InputError
from lab.files import PathLike

CONF_FILE = "YAML (default: confs/table1_mini.yaml; with --data confs/table1.yaml)"


def add_options(
    parser: argparse.ArgumentParser,
    *,
    conf_file: str = CONF_FILE,
    log_dir: str = "folder of the results (default: exp/<configuration>)",
    trials: str = "trials of each model, a seed each",
    gpus: str = "index, several (0,1) for trials side by side, or cpu",
) -> None:
    """Add the flags that every recipe that trains takes.

    Args:
        parser: gets --conf_file, --data, --log_dir, --trials, --gpus, --set, --fast_dev_run and
            --quiet.
        conf_file: help.
        log_dir: help.
        trials: help.
        gpus: help.
    """
    parser.add_argument("--conf_file", help=conf_file)
    parser.add_argument("--data", help="DESED tree in the official layout (audio/, metadata/)")
    parser.add_argument("--log_dir", help=log_dir)
    parser.add_argument("--trials", type=int, default=1, help=trials)
    parser.add_argument("--gpus", help=gpus)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="values in the place of the configuration's, for instance coherence.normalize=true",
    )
    parser.add_argument(
        "--fast_dev_run",
        action="store_true",
        help="three epochs of two batches, on a few clips where they are generated",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add --verify, for recipes whose results are test scores."""
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hold the PSDS of each test against psds_eval too, which takes minutes",
    )


def add_storage(
    parser: argparse.ArgumentParser,
    *,
    storage: str = "URL of a database by which machines share the trials (docs/operations.md)",
    study: str = "name of the study in it (default: that of the results)",
) -> None:
    """Add --storage and --study.

    Args:
        parser: gets them.
        storage: help.
        study: help.
    """
    parser.add_argument("--storage", metavar="URL", help=storage)
    parser.add_argument("--study", metavar="NAME", help=study)


def require_optuna() -> None:
    """Refuse to share trials where what it takes is not installed.

    Raises:
        InputError: Optuna or SQLAlchemy is missing.
    """
    for name in ("optuna", "sqlalchemy"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"{name} is not installed; pip install 'dcase-coherence[recipes,tune]'"
            )


def check_libraries(verify: bool = False) -> None:
    """Say where the scores of a test are not held against the libraries that define them.

    Args:
        verify: that is asked for (--verify).

    Raises:
        InputError: it is asked for, and the libraries cannot be used.
    """
    # Here, for it loads numpy and pandas.
    from lab.evaluation.reference import missing

    reason = missing()
    if not reason:
        return
    mending = f"{INSTALL} '.[recipes,verify]'"
    if verify:
        raise InputError(f"--verify needs psds_eval, and {reason}; {mending}")
    if own_rank() == 0:
        print(f"no score is held against sed_eval and psds_eval: {reason}; {mending}", flush=True)


def check_counts(args: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1.

    Raises:
        InputError: for the first of the flags that is below 1.
    """
    for name in names:
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}; give at least 1")


def results_folder(
    args: argparse.Namespace, prefix: str = "", *, setting: PathLike | None = None
) -> Path:
    """Folder of the results: --log_dir, or one named after the configuration and its setting.

    Example:
        >>> args = argparse.Namespace(log_dir=None, conf_file="confs/mini.yaml", fast_dev_run=True)
        >>> results_folder(args).as_posix(), results_folder(args, "alphas_").as_posix()
        ('exp/mini_fast_dev_run', 'exp/alphas_mini_fast_dev_run')
        >>> results_folder(args, setting="settings/exact.yaml").as_posix()
        'exp/mini_exact_fast_dev_run'
    """
    return Path(args.log_dir or Path("exp", results_name(args, prefix, setting=setting)))


def results_name(
    args: argparse.Namespace, prefix: str = "", *, setting: PathLike | None = None
) -> str:
    """Name of the results after the configuration and its setting; see :func:`results_folder`."""
    name = prefix + Path(args.conf_file).stem
    name += f"_{Path(setting).stem}" if setting else ""
    return name + "_fast_dev_run" * args.fast_dev_run


def running(args: argparse.Namespace, study: str) -> dict[str, Any]:
    """Options of :func:`lab.runs.trials.run_trials` that the flags give.

    Args:
        args: with those of :func:`add_options`, :func:`add_verify` and :func:`add_storage`.
        study: its name where --study gives none; the same on all machines.

    Raises:
        InputError: --storage is given, and Optuna is not installed.
    """
    if args.storage is not None:
        require_optuna()
    return {
        "gpus": args.gpus,
        "progress": not args.quiet,
        "fast_dev_run": args.fast_dev_run,
        "verify_psds": args.verify,
        "storage": args.storage,
        "study": args.study or study,
    }
