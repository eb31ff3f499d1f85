"""Cells of the alpha grid are judged, kept, and found again."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("optuna", reason="needs pip install '.[tune]'")

import optuna
import workers

from lab.baseline.config import load_config
from lab.errors import InputError
from lab.runs import alphas, claims
from lab.runs.alphas import Cell

GRID = {"ratio": [0.1, 1.0], "scale": [0.01, 0.03]}
SETTINGS = {"training": {"n_epochs": 2}}
OK = Cell(0.5, "ok", 1.0, 2.0)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db?timeout=60"


def open_study(storage, settings=SETTINGS):
    return claims.open_study(storage, "alphas", settings)


def epochs(**columns):
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("table", "diverged", "score", "state"),
    [
        (epochs(z_norm=[1.0, 0.5], **{"val/obj_metric": [0.2, 0.1]}), False, 0.2, "ok"),
        (epochs(z_norm=[1.0, 0.09], **{"val/obj_metric": [0.2, 0.3]}), False, 0.3, "collapsed"),
        (epochs(z_norm=[1.0, 90.0], **{"val/obj_metric": [0.2, 0.1]}), True, 0.2, "diverged"),
        (epochs(z_norm=[1.0, 2.0], **{"val/obj_metric": [None, 0.4]}), False, 0.4, "ok"),
        (epochs(z_norm=[1.0]), True, 0.0, "diverged"),
        (epochs(z_norm=[2.0, 21.0]), False, 0.0, "diverged"),
        (epochs(z_norm=[2.0, 19.0]), False, 0.0, "ok"),
        (epochs(), True, 0.0, "diverged"),
    ],
)
def test_a_training_is_judged(table, diverged, score, state):
    cell = alphas.outcome(table, diverged=diverged)
    assert (cell.score, cell.state) == (score, state)


def test_the_balance_is_that_of_growth_and_collapse():
    table = epochs(d_boundary=[9.0, 3.0], d_inside=[1.0, 2.0], boundary_rate=[0.5, 0.2])
    # The term is scale-free where alpha1 * N_boundary * d_boundary = alpha2 * N_inside * d_inside.
    balance = alphas.outcome(table).balance
    assert pytest.approx(balance * 0.8 * 2.0) == 1.0 * 0.2 * 3.0


def test_a_grid_is_run_once_and_found_again(storage):
    ran = []

    def run(pair, check):
        ran.append(pair)
        check()
        return Cell(pair[0] * pair[1], "collapsed" if pair[0] == 1 else "ok", float("nan"), 1.0)

    study = open_study(storage)
    alphas.search(study, storage, GRID, run)
    assert ran == [(0.1, 0.01), (0.1, 0.03), (1.0, 0.01), (1.0, 0.03)]
    again = open_study(storage)
    alphas.search(again, storage, GRID, run)
    assert len(ran) == 4
    table = alphas.table(again, GRID)
    assert table["state"].tolist() == ["ok", "ok", "collapsed", "collapsed"]
    assert table["score"].tolist() == pytest.approx([0.001, 0.003, 0.01, 0.03])
    assert table["balance"].isna().all()
    assert again.best_params == {"ratio": 1.0, "scale": 0.03}


def test_a_grid_may_grow(storage):
    ran = []

    def run(pair, check):
        ran.append(pair)
        return OK

    alphas.search(open_study(storage), storage, GRID, run)
    larger = {**GRID, "scale": [0.01, 0.03, 0.1]}
    ran.clear()
    study = open_study(storage)
    alphas.search(study, storage, larger, run)
    assert ran == [(0.1, 0.1), (1.0, 0.1)]
    assert len(alphas.table(study, larger)) == 6
    assert len(alphas.table(study, GRID)) == 4


def test_a_grid_of_before_cells_had_names_goes_on(storage):
    # As earlier versions left it: one cell finished, one stopped without a sign of life.
    study = optuna.create_study(study_name="alphas", storage=storage, direction="maximize")
    study.set_user_attr("settings", json.dumps({"coherence": {"normalize": False}}))
    ranges = {
        name: optuna.distributions.FloatDistribution(min(values), max(values), log=True)
        for name, values in GRID.items()
    }
    for state, scale in (("COMPLETE", 0.01), ("RUNNING", 0.03)):
        complete = state == "COMPLETE"
        study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState[state],
                params={"ratio": 0.1, "scale": scale},
                distributions=ranges,
                value=0.25 if complete else None,
                user_attrs=Cell(0.25, "ok", None, 3.0)._asdict() if complete else {},
                system_attrs={"grid_id": 0, "search_space": GRID},
            )
        )
    ran = []

    def run(pair, check):
        ran.append(pair)
        return OK

    # A setting that came later, at the value that changes nothing.
    study = open_study(storage, {"coherence": {"normalize": False, "lags": [1]}})
    alphas.search(study, storage, GRID, run)
    assert ran == [(0.1, 0.03), (1.0, 0.01), (1.0, 0.03)]
    table = alphas.table(study, GRID)
    assert table["score"].tolist() == [0.25, 0.5, 0.5, 0.5]
    assert table["z_norm"].tolist() == [3.0, 2.0, 2.0, 2.0]
    with pytest.raises(InputError, match=r"coherence\.lags was \[1\], is \[1, 2\]"):
        open_study(storage, {"coherence": {"normalize": False, "lags": [1, 2]}})


def test_a_cell_is_the_mean_of_its_trials(config_file, tmp_path, monkeypatch):
    config = load_config(config_file)
    calls = []

    def train(trial, gpus, **_):
        calls.append((trial.number, trial.config["coherence"]["alpha1"], trial.coherence))
        trial.folder.mkdir(parents=True)
        (trial.folder / "epochs.tsv").write_text(
            f"epoch\tval/obj_metric\n0\t0.{trial.number + 1}\n"
        )
        if trial.number:
            raise FloatingPointError("the features have diverged")

    monkeypatch.setattr(alphas, "run_trial", train)
    cell = alphas.run_cell(config, (3.0, 0.1), tmp_path / "cell", trials=2)
    assert (cell.score, cell.state) == (pytest.approx(0.15), "diverged")
    assert calls == [(0, pytest.approx(0.3), True), (1, pytest.approx(0.3), True)]
    assert config["coherence"]["alpha1"] == 0.1


def stand_in(log):
    """Training of a trial in four epochs; it goes on from the table, and writes down each epoch."""

    def train(trial, gpus, *, fast_dev_run, report):
        table = trial.folder / "epochs.tsv"
        trial.folder.mkdir(parents=True, exist_ok=True)
        rows = table.read_text().splitlines() if table.exists() else ["epoch\tval/obj_metric"]
        for epoch in range(len(rows) - 1, 4):
            time.sleep(0.3)
            report()
            rows.append(f"{epoch}\t{(epoch + 1) * trial.config['coherence']['alpha1']:.6f}")
            table.write_text("\n".join(rows) + "\n")
            with open(log, "a") as file:
                file.write(f"{os.getpid()}\t{trial.folder.parent.name}\t{epoch}\n")

    return train


def worker(storage, config, log, place, folder="exp"):
    """Work on the grid in a working folder of its own."""
    claims.INTERVAL, claims.GRACE = 1, 3
    alphas.run_trial = stand_in(log)
    os.makedirs(place, exist_ok=True)
    os.chdir(place)
    options = {"trials": 1, "gpus": "cpu", "fast_dev_run": False, "workers": 1, "quiet": True}
    shared = (config, Path(folder), storage, "alphas", SETTINGS, GRID, options)
    alphas.search_worker(0, str(os.getpid()), *shared)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["of its own", "shared"])
def test_a_killed_workers_cell_is_taken_up_by_another_machines(
    server, config_file, tmp_path, folder
):
    context = multiprocessing.get_context("fork")
    config, storage, log = load_config(config_file), server.database(), tmp_path / "log"

    def begin(storage, log, place):
        exp = "exp" if folder == "of its own" else tmp_path / "shared" / log.name
        process = context.Process(target=worker, args=(storage, config, log, tmp_path / place, exp))
        process.start()
        return process

    first, second = begin(storage, log, "first"), begin(storage, log, "second")
    killed = workers.kill_in_a_job(first, second, log)

    ran = workers.read_log(log)
    assert len(ran) == 4
    # From its checkpoint where that can be reached, otherwise from the start.
    begun = len(ran[killed][first.pid])
    assert begun in (2, 3)
    assert ran[killed][second.pid] == list(range(begun if folder == "shared" else 0, 4))
    assert all(list(by.values()) == [[0, 1, 2, 3]] for cell, by in ran.items() if cell != killed)
    study = claims.open_study(storage, "alphas", SETTINGS)
    states = {}
    for trial in study.trials:
        states.setdefault(trial.user_attrs["job"], []).append(trial.state.name)
    assert states.pop(killed) == ["FAIL", "COMPLETE"]
    assert all(set(one) <= {"COMPLETE", "WAITING"} for one in states.values())
    assert all(one.count("COMPLETE") == 1 for one in states.values())

    alone = server.database()
    begin(alone, tmp_path / "undisturbed", "alone").join()
    table = alphas.table(claims.open_study(alone, "alphas", SETTINGS), GRID)
    assert len(table) == 4
    pd.testing.assert_frame_equal(alphas.table(study, GRID), table)
