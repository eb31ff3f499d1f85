"""What the commands of the recipes that train have in common."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from lab.devices import own_rank
from lab.errors import INSTALL, InputError
from lab.files import PathLike


def add_options(
    parser: argparse.ArgumentParser, *, conf_file: str, log_dir: str, trials: str, gpus: str = ""
) -> None:
    """Add the flags that every recipe that trains takes, with helps of its own."""
    parser.add_argument("--conf_file", help=conf_file)
    parser.add_argument(
        "--data",
        help="DESED tree in the official layout: audio/, metadata/ (default: generated clips)",
    )
    parser.add_argument("--log_dir", help=log_dir)
    parser.add_argument("--trials", type=int, default=1, help=f"{trials} (default: %(default)s)")
    parser.add_argument(
        "--gpus",
        help=f"index, several (0,1) for trials side by side{gpus}, or cpu (default: the first GPU, "
        "or the CPU where there is none)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="values in the place of the configuration's, for instance coherence.normalize=true "
        "(default: none)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="hold the PSDS of each test against psds_eval too, which takes minutes (default: no)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database by which machines share the trials, see docs/operations.md (default: none)",
    )
    parser.add_argument(
        "--study", metavar="NAME", help="of the trials in it (default: that of the results)"
    )
    parser.add_argument(
        "--fast_dev_run",
        action="store_true",
        help="three epochs of two batches, on a few clips where they are generated (default: no)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress (default: progress)")


def check_libraries(verify: bool = False) -> None:
    """Say where the scores of a test are not held against the libraries that define them.

    Raises:
        InputError: that is asked for (--verify), and the libraries cannot be used.
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


def results_name(
    args: argparse.Namespace, prefix: str = "", *, setting: PathLike | None = None
) -> str:
    """Name of the results after the configuration and its setting, the same on all machines.

    Example:
        >>> args = argparse.Namespace(conf_file="confs/mini.yaml", fast_dev_run=True)
        >>> results_name(args, "compare_"), results_name(args, setting="settings/exact.yaml")
        ('compare_mini_fast_dev_run', 'mini_exact_fast_dev_run')
    """
    name = prefix + Path(args.conf_file).stem
    name += f"_{Path(setting).stem}" if setting else ""
    return name + "_fast_dev_run" * args.fast_dev_run


def running(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Options of :func:`lab.runs.pool.run_trials` that the flags give.

    Args:
        args: with those of :func:`add_options`.
        name: of the results.

    Raises:
        InputError: --trials is below 1, or --storage is given and Optuna is not installed.
    """
    if args.trials < 1:
        raise InputError(f"--trials is {args.trials}; give at least 1")
    for library in ("optuna", "sqlalchemy") if args.storage is not None else ():
        if importlib.util.find_spec(library) is None:
            raise InputError(
                f"{library} is not installed; pip install 'dcase-coherence[recipes,tune]'"
            )
    return {
        "gpus": args.gpus,
        "progress": not args.quiet,
        "fast_dev_run": args.fast_dev_run,
        "verify_psds": args.verify,
        "storage": args.storage,
        "study": args.study or name,
    }
