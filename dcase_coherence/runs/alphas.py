"""Grid over alpha1 and alpha2, shared by any number of processes and machines through Optuna.

A cell of the grid is trained in its own folder, which one process at a time holds. What it gave is
kept there too, in `cell.json`: a study that is lost or locked costs no training.
"""

from __future__ import annotations

import copy
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import filelock
import numpy as np
import optuna
import pandas as pd
import sqlalchemy.exc

from dcase_coherence.data.digests import digest
from dcase_coherence.runs.epochs import read_epochs
from dcase_coherence.runs.trials import Trial, refuse_other_data, run_trial
from dcase_coherence.system.errors import InputError
from dcase_coherence.system.files import whole_file

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
    """Train the trials of one cell, or go on with them, or read what they gave.

    Another process that has the cell is waited for.

    Args:
        config: as :func:`dcase_coherence.baseline.config.load_config` returns it.
        place: ratio and scale.
        folder: of the cell.
        trials: trainings with a seed each.
        gpus: the official flag.
        fast_dev_run: three epochs of two batches.
        report: as for :func:`dcase_coherence.runs.trials.run_trial`.
    """
    settings = copy.deepcopy({name: dict(keys) for name, keys in config.items()})
    settings["coherence"].update(weights(*place))
    folder.mkdir(parents=True, exist_ok=True)
    # The operating system lets go of it when the process ends, however it ends.
    with filelock.FileLock(folder / ".lock"):
        record = folder / "cell.json"
        if record.exists():
            held = json.loads(record.read_text())
            if held.pop("trials") == trials:
                return _cell(held)
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
        cell = Cell(
            score=float(np.mean([one.score for one in found])),
            state=next(s for s in ("diverged", "collapsed", "ok") if s in states),
            balance=float(np.mean([one.balance for one in found])),
            z_norm=float(np.mean([one.z_norm for one in found])),
        )
        with whole_file(record) as temporary:
            content = {k: None if v != v else v for k, v in cell._asdict().items()}
            temporary.write_text(json.dumps({**content, "trials": trials}) + "\n")
        return cell


def refuse_cells_of_other_data(config: Mapping[str, Any], folder: Path) -> None:
    """Raise where the training data changed since a cell in the folder of a grid was trained.

    Raises:
        InputError: see :func:`dcase_coherence.runs.trials.refuse_other_data`.
    """
    digest.cache_clear()
    for record in sorted(folder.glob("*/trial_0/trial.json")):
        trial = Trial("", config, True, 0, record.parent)
        refuse_other_data(trial, json.loads(record.read_text()))


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Report in one sentence that a study's storage is locked, missing or of another kind.

    Raises:
        InputError: instead of what Optuna or SQLAlchemy raise.
    """
    try:
        yield
    except (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.SQLAlchemyError,
        ImportError,
    ) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:200]
        raise InputError(
            f"the study's storage {hide_password(storage)} cannot be used ({reason}); another "
            "process may hold it: run the same command again, finished cells are kept"
        ) from None


def hide_password(storage: str) -> str:
    """A storage URL as it may be printed.

    Example:
        >>> hide_password("postgresql://me:secret@host/db")
        'postgresql://me:***@host/db'
    """
    try:
        return sqlalchemy.engine.make_url(storage).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return storage


def open_study(
    storage: str, name: str, grid: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        storage: URL of a database that Optuna knows (sqlite, postgresql, mysql).
        name: of the study.
        grid: values of ratio and scale.
        settings: what makes two studies the same study; the grid may grow.

    Raises:
        InputError: the study was begun with other settings, or the storage cannot be used.
    """
    held: dict[str, Any] = {}
    with storage_errors(storage):
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=optuna.samplers.GridSampler(grid),
            direction="maximize",
            load_if_exists=True,
        )
        held = study.user_attrs
        if "settings" not in held:
            study.set_user_attr("settings", json.dumps(settings, sort_keys=True))
            return study
    before = json.loads(held["settings"])
    now = json.loads(json.dumps(settings))
    for section in sorted({*before, *now}):
        if before.get(section) != now.get(section):
            raise InputError(
                f"the study {name!r} in {hide_password(storage)} was begun with another {section} "
                f"({before.get(section)}, now {now.get(section)}); give another --study"
            )
    return study


def search(
    study: optuna.Study,
    storage: str,
    grid: Mapping[str, Sequence[float]],
    run: Callable[[tuple[float, float]], Cell],
) -> None:
    """Run cells of the grid until none is left; other processes may do the same.

    Args:
        study: as :func:`open_study` returns it.
        storage: its URL, for messages.
        grid: values of ratio and scale.
        run: gives a cell.
    """

    def objective(trial: optuna.Trial) -> float:
        place = tuple(
            trial.suggest_float(name, min(grid[name]), max(grid[name]), log=True) for name in NAMES
        )
        cell = cells(study).get(place)  # type: ignore[arg-type]
        try:
            cell = cell or run(place)  # type: ignore[arg-type]
        except (Exception, KeyboardInterrupt) as error:
            raise _Left(error) from error
        for key, value in cell._asdict().items():
            trial.set_user_attr(key, None if value != value else value)
        return cell.score

    with storage_errors(storage):
        try:
            while missing(study, grid):
                study.optimize(objective)
        except _Left as left:
            raise left.error from None


class _Left(BaseException):
    """Leaves a trial as if its process had been killed: the grid gives its cell out again.

    After an exception that Optuna sees the trial would count as failed, and its cell as done.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def cells(study: optuna.Study) -> dict[tuple[float, float], Cell]:
    """Finished cells by ratio and scale."""
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return {
        (trial.params["ratio"], trial.params["scale"]): _cell(trial.user_attrs)
        for trial in finished
    }


def _cell(values: Mapping[str, Any]) -> Cell:
    """A cell from plain values, in which None stands for NaN."""
    known = (values[name] for name in Cell._fields)
    return Cell._make(float("nan") if value is None else value for value in known)


def missing(study: optuna.Study, grid: Mapping[str, Sequence[float]]) -> list[tuple[float, float]]:
    """Cells of the grid that are not finished."""
    done = cells(study)
    return [(r, s) for r in grid["ratio"] for s in grid["scale"] if (r, s) not in done]


def table(study: optuna.Study, grid: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Finished cells of the grid: ratio, scale, alpha1, alpha2, score, state, balance, z_norm."""
    rows = [
        (*place, *weights(*place).values(), *cell)
        for place, cell in sorted(cells(study).items())
        if place[0] in grid["ratio"] and place[1] in grid["scale"]
    ]
    return pd.DataFrame(rows, columns=[*NAMES, "alpha1", "alpha2", *Cell._fields])


def default_storage(folder: os.PathLike[str]) -> str:
    """SQLite file in a folder; a process waits a minute for another one's write."""
    return f"sqlite:///{Path(folder).resolve() / 'study.db'}?timeout=60"
