"""Search the weights of the term on a logarithmic grid (the paper's criterion: the validation set).

The axes are the scale of both weights, alpha2, and their ratio alpha1 / alpha2: the paper's pair
(0.1, 0.03) has the scale 0.03 and the ratio 10 / 3.

Every cell is trained as train_synthetic.py trains the coherence model. The study lives in an SQLite
file, or in any database that Optuna knows, and any number of processes on any number of machines
may work on it: run the same command again, here or there, to go on or to join in.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

from lab.errors import InputError, command
from lab.packages import NETWORK, require
from lab.runs.options import (
    add_options,
    add_storage,
    check_counts,
    check_libraries,
    require_optuna,
    results_folder,
)

CONFS = Path(__file__).resolve().parent / "confs"
GRID = {"ratio": [1 / 3, 1.0, 10 / 3, 10.0], "scale": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_options(
        parser,
        log_dir="folder of the results (default: exp/alphas_<configuration>)",
        trials="trainings of each cell, a seed each",
        gpus="index, several (0,1) for the workers in turn, or cpu",
    )
    add_storage(
        parser,
        storage="URL of a database by which machines share the cells (default: an SQLite file in "
        "log_dir)",
        study="name of the study in it (default: alphas)",
    )
    for name, values in GRID.items():
        what = {"ratio": "alpha1 / alpha2", "scale": "alpha2"}[name]
        parser.add_argument(
            f"--{name}", type=float, nargs="+", default=values, metavar="X", help=what
        )
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    args = parser.parse_args(argv)
    check_counts(args, "trials", "workers")
    for name in GRID:
        values = sorted(set(getattr(args, name)))
        if not 0 < values[0] <= values[-1] < float("inf"):
            raise InputError(
                f"--{name} is {values}; give numbers above 0, the scale is logarithmic"
            )
        setattr(args, name, values)
    args.conf_file = args.conf_file or CONFS / ("table1.yaml" if args.data else "table1_mini.yaml")
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require(*NETWORK)
    check_libraries()
    require_optuna()
    from lab.baseline.config import load_config, parse_overrides
    from lab.baseline.place import place_data
    from lab.devices import started_together
    from lab.runs import alphas, claims

    if started_together() != (1, 1):
        raise InputError(
            "torchrun or srun started several processes to train one model, and each cell is "
            "trained by one; start the command by itself, as often as you like"
        )
    overrides = parse_overrides(args.set)
    for name in ("alpha1", "alpha2"):
        if f"coherence.{name}" in overrides:
            raise InputError(
                f"--set coherence.{name} would be replaced by the grid's; give --ratio and --scale"
            )
    config = load_config(args.conf_file, overrides)
    name = Path(args.conf_file).stem
    folder = results_folder(args, "alphas_")
    place_data(
        config,
        args.data,
        Path("data", name),
        overrides,
        few=args.fast_dev_run,
        progress=not args.quiet,
    )
    folder.mkdir(parents=True, exist_ok=True)
    alphas.refuse_cells_of_other_data(config, folder)
    args.study = args.study or "alphas"
    args.storage = args.storage or alphas.default_storage(folder)
    grid = {axis: getattr(args, axis) for axis in GRID}
    settings = settings_of(config, args)
    study = claims.open_study(args.storage, args.study, settings)
    jobs = alphas.jobs(grid)
    left = len(claims.unfinished(study, jobs))
    if not args.quiet:
        print(f"{left} of {len(jobs)} cells to train", flush=True)
    if left:
        options = {
            name: getattr(args, name)
            for name in ("trials", "gpus", "fast_dev_run", "workers", "quiet")
        }
        worker = (config, folder, args.storage, args.study, settings, grid, options)
        claims.side_by_side(min(args.workers, left), study, alphas.search_worker, *worker)
    if claims.left_to_others(study, args.storage, jobs):
        return
    write(folder, alphas.table(study, grid), args)


def settings_of(config: dict, args: argparse.Namespace) -> dict:
    """What all trainings of a study have in common, on whatever machine."""
    from lab.data.digests import set_digests
    from lab.runs.trials import Trial

    settings = Trial("", config, True, 0, Path()).settings()["config"]
    settings["coherence"] = {
        k: v for k, v in settings["coherence"].items() if k not in ("alpha1", "alpha2")
    }
    settings["data"] = {k: v for k, v in settings["data"].items() if not k.endswith("_folder")}
    return {
        **settings,
        "trials": args.trials,
        "fast_dev_run": args.fast_dev_run,
        "digests": {"of the training set": set_digests(config)["training"]},
    }


def write(folder: Path, table, args: argparse.Namespace) -> None:
    """Print the grid; write the heat map, the report and alphas.json."""
    from lab.evaluation import plots
    from lab.evaluation.report import Report
    from lab.evaluation.tables import to_json
    from lab.files import write_whole

    good = table[table["state"] == "ok"]
    best = (good if len(good) else table).sort_values("score", ascending=False).iloc[0]
    balance = good["balance"].median()
    words = f"best: alpha1 {best['alpha1']:g}, alpha2 {best['alpha2']:g}"
    words += f" with {100 * best['score']:.2f} % on validation ({best['state']})"
    print(f"\n{table.to_string(index=False)}\n\n{words}")
    command_line = shlex.join(sys.argv)
    report = Report(
        "Grid over scale and ratio of the weights", command=command_line, summary=f"{words}."
    )
    known = None if math.isnan(balance) else balance
    figure = plots.alpha_grid(table, balance=known, score="validation")
    note = (
        "Line: z grows right of it and collapses left of it; by the median of the trained networks."
    )
    report.figure("Alphas", figure, note)
    shown = table.set_index("ratio")
    report.table("Cells", shown, "Score in [0, 1]; |z| in the last epoch.")
    report.settings({key: value for key, value in vars(args).items() if key != "storage"})
    report.write(folder)
    content = {
        "command": command_line,
        "best": {name: best[name] for name in (*GRID, "alpha1", "alpha2")},
        "balance": balance,
        "cells": table.to_dict("records"),
    }
    write_whole(folder / "alphas.json", to_json(content))
    print(f"report.html, report.md, figures/alphas.png and alphas.json in {folder}")


if __name__ == "__main__":
    main()
