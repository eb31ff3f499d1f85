"""Grid over alpha1 and alpha2, shared by any number of processes and machines through Optuna.

A cell of the grid is trained in its own folder, and what its trainings gave is kept there: a study
that is lost costs none of them.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np
import optuna
import pandas as pd
import torch

from lab.data.digests import digest
from lab.devices import choose_devices, cores
from lab.processes import leave_with_parent
from lab.runs.claims import Given, Job, finished, job_name, open_study, work
from lab.runs.epochs import read_epochs
from lab.runs.trials import Trial, refuse_other_data, run_trial

#: A cell has collapsed when the mean norm of z in its last epoch is below this part of that in its
#: first epoch, when the term had hardly any weight.
COLLAPSED = 0.1
#: A cell has diverged when that norm is above this multiple, or the training stopped on numbers
#: that are not finite. Training without the term stays far from both.
DIVERGED = 10.0
#: What is searched: alpha1 over alpha2, and alpha2.
NAMES = ("ratio", "scale")


class Cell(NamedTuple):
    """What one pair of weights gave.

    Attributes:
        score: best validation score of an epoch, mean over the trials, in [0, 1]; 0 when no epoch
            was validated.
        state: "ok", "diverged" or "collapsed" (the worst of the trials).
        balance: `(d_boundary / d_inside) * (N_boundary / N_inside)` in the last epoch, NaN where
            it is not known.
        z_norm: mean norm of z in the last epoch.
    """

    score: float
    state: str
    balance: float
    z_norm: float


def outcome(epochs: pd.DataFrame, *, diverged: bool = False) -> Cell:
    """Judge a training by the table of its epochs.

    Args:
        epochs: as `epochs.tsv` holds it.
        diverged: the training stopped on numbers that are not finite.

    Example:
        >>> epochs = pd.DataFrame({"val/obj_metric": [0.1, 0.3], "z_norm": [2.0, 0.1]})
        >>> outcome(epochs)[:2]
        (0.3, 'collapsed')
    """
    known = {
        name: epochs[name].dropna() if name in epochs else pd.Series(dtype=float)
        for name in ("val/obj_metric", "z_norm")
    }
    norms = known["z_norm"]
    growth = norms.iloc[-1] / norms.iloc[0] if len(norms) > 1 and norms.iloc[0] else 1.0
    state = "diverged" if growth > DIVERGED else "collapsed" if growth < COLLAPSED else "ok"
    balance = float("nan")
    if {"d_boundary", "d_inside", "boundary_rate"} <= set(epochs) and len(epochs):
        last = epochs.iloc[-1]
        if last["d_inside"] > 0 and 0 < last["boundary_rate"] < 1:
            rate = last["boundary_rate"] / (1 - last["boundary_rate"])
            balance = float(last["d_boundary"] / last["d_inside"] * rate)
    scores = known["val/obj_metric"]
    return Cell(
        score=float(scores.max()) if len(scores) else 0.0,
        state="diverged" if diverged else state,
        balance=balance,
        z_norm=float(norms.iloc[-1]) if len(norms) else float("nan"),
    )


def weights(ratio: float, scale: float) -> dict[str, float]:
    """alpha1 and alpha2 of a cell; the paper's pair has the ratio 10 / 3 and the scale 0.03.

    Example:
        >>> weights(10 / 3, 0.03)
        {'alpha1': 0.1, 'alpha2': 0.03}
    """
    return {"alpha1": ratio * scale, "alpha2": scale}


def run_cell(
    config: Mapping[str, Mapping[str, Any]],
    place: tuple[float, float],
    folder: Path,
    *,
    trials: int = 1,
    gpus: str | None = None,
    fast_dev_run: bool = False,
    report: Callable[..., None] | None = None,
) -> Cell:
    """Train the trials of one cell, or go on with them; those that are finished are kept.

    Args:
        config: as :func:`lab.baseline.config.load_config` returns it.
        place: ratio and scale.
        folder: of the cell.
        trials: trainings with a seed each.
        gpus: the official flag.
        fast_dev_run: three epochs of two batches.
        report: as for :func:`lab.runs.trials.run_trial`.
    """
    settings = copy.deepcopy({name: dict(keys) for name, keys in config.items()})
    settings["coherence"].update(weights(*place))
    found = []
    for number in range(trials):
        trial = Trial(f"{place}", settings, True, number, folder / f"trial_{number}")
        diverged = False
        try:
            run_trial(trial, gpus, fast_dev_run=fast_dev_run, report=report)
        except FloatingPointError:
            diverged = True
        found.append(outcome(read_epochs(trial.folder), diverged=diverged))
    states = [one.state for one in found]
    return Cell(
        score=float(np.mean([one.score for one in found])),
        state=next(s for s in ("diverged", "collapsed", "ok") if s in states),
        balance=float(np.mean([one.balance for one in found])),
        z_norm=float(np.mean([one.z_norm for one in found])),
    )


def refuse_cells_of_other_data(config: Mapping[str, Any], folder: Path) -> None:
    """Raise where the training data changed since a cell in the folder of a grid was trained.

    Raises:
        InputError: see :func:`lab.runs.trials.refuse_other_data`.
    """
    digest.cache_clear()
    for record in sorted(folder.glob("*/trial_0/trial.json")):
        trial = Trial("", config, True, 0, record.parent)
        refuse_other_data(trial, json.loads(record.read_text()))


def jobs(grid: Mapping[str, Sequence[float]]) -> list[Job]:
    """The cells of a grid, as any number of workers share them.

    Args:
        grid: values of ratio and scale.
    """
    places = [
        {"ratio": ratio, "scale": scale} for ratio in grid["ratio"] for scale in grid["scale"]
    ]
    return [Job(job_name(place), place) for place in places]


def search(
    study: optuna.Study,
    storage: str,
    grid: Mapping[str, Sequence[float]],
    run: Callable[[tuple[float, float], Callable[[], None]], Cell],
    worker: str = "",
) -> None:
    """Run cells of the grid until none is left to take; other processes may do the same.

    Args:
        study: as :func:`lab.runs.claims.open_study` returns it.
        storage: its URL, for messages.
        grid: values of ratio and scale.
        run: gives a cell; see :func:`lab.runs.claims.work`.
        worker: who this is.
    """
    several = jobs(grid)
    places = {job.name: (job.params["ratio"], job.params["scale"]) for job in several}

    def give(name: str, check: Callable[[], None]) -> Given:
        cell = run(places[name], check)
        # JSON has no NaN.
        known = {k: None if value != value else value for k, value in cell._asdict().items()}
        return Given(cell.score, known)

    work(study, storage, several, give, worker)


def search_worker(
    number: int,
    worker: str,
    config: Mapping[str, Mapping[str, Any]],
    folder: Path,
    storage: str,
    name: str,
    settings: Mapping[str, Any],
    grid: Mapping[str, Sequence[float]],
    options: Mapping[str, Any],
) -> None:
    """Train cells of the grid in this process, one of several of this machine.

    Args:
        number: of the process; it takes a GPU of those there are.
        worker: who this is.
        config: without the weights.
        folder: of the grid.
        storage: URL.
        name: of the study.
        settings: of the study.
        grid: values of ratio and scale.
        options: trials, gpus, fast_dev_run, workers and quiet, as the flags say.
    """
    accelerator, devices = choose_devices(options["gpus"])
    gpus = "cpu" if accelerator == "cpu" else str(devices[number % len(devices)])  # type: ignore[index,arg-type]
    if gpus == "cpu":
        torch.set_num_threads(max(cores() // options["workers"], 1))

    def run(place: tuple[float, float], check: Callable[[], None]) -> Cell:
        def report(*_: object) -> None:
            leave_with_parent()
            check()

        cell_name = job_name(dict(zip(NAMES, place)))
        if not options["quiet"]:
            print(f"{cell_name}: begins", flush=True)
        cell = run_cell(
            config,
            place,
            folder / cell_name,
            trials=options["trials"],
            gpus=gpus,
            fast_dev_run=options["fast_dev_run"],
            report=report,
        )
        said = f"{100 * cell.score:.2f} %, {cell.state}, |z| {cell.z_norm:.3g}"
        print(f"{cell_name}: {said}", flush=True)
        return cell

    search(open_study(storage, name, settings), storage, grid, run, worker)


def table(study: optuna.Study, grid: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Finished cells of the grid: ratio, scale, alpha1, alpha2, score, state, balance, z_norm."""
    done = finished(study)
    rows = [
        (*job.params.values(), *weights(**job.params).values(), *_cell(done[job.name].user_attrs))
        for job in jobs(grid)
        if job.name in done
    ]
    return pd.DataFrame(rows, columns=[*NAMES, "alpha1", "alpha2", *Cell._fields])


def _cell(values: Mapping[str, Any]) -> Cell:
    """A cell from plain values, in which None stands for NaN."""
    known = (values[name] for name in Cell._fields)
    return Cell._make(float("nan") if value is None else value for value in known)


def default_storage(folder: os.PathLike[str]) -> str:
    """SQLite file in a folder; a process waits a minute for another one's write."""
    return f"sqlite:///{Path(folder).resolve() / 'study.db'}?timeout=60"
