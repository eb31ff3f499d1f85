"""Cells of the alpha grid are judged, kept, and found again."""

import json
import sqlite3

import pandas as pd
import pytest

from dcase_coherence.baseline.config import load_config
from dcase_coherence.runs import alphas
from dcase_coherence.runs.alphas import Cell
from dcase_coherence.system.errors import InputError

GRID = {"ratio": [0.1, 1.0], "scale": [0.01, 0.03]}
SETTINGS = {"training": {"n_epochs": 2}}
OK = Cell(0.5, "ok", 1.0, 2.0)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db?timeout=1"


def open_study(storage, grid=GRID, settings=SETTINGS):
    return alphas.open_study(storage, "alphas", grid, settings)


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

    def run(pair):
        ran.append(pair)
        return Cell(pair[0] * pair[1], "collapsed" if pair[0] == 1 else "ok", float("nan"), 1.0)

    study = open_study(storage)
    alphas.search(study, storage, GRID, run)
    assert sorted(ran) == [(0.1, 0.01), (0.1, 0.03), (1.0, 0.01), (1.0, 0.03)]
    again = open_study(storage)
    alphas.search(again, storage, GRID, run)
    assert len(ran) == 4
    table = alphas.table(again, GRID)
    assert table["state"].tolist() == ["ok", "ok", "collapsed", "collapsed"]
    assert table["score"].tolist() == pytest.approx([0.001, 0.003, 0.01, 0.03])
    assert again.best_params == {"ratio": 1.0, "scale": 0.03}


@pytest.mark.slow
def test_a_grid_may_grow(storage):
    ran = []
    alphas.search(open_study(storage), storage, GRID, lambda pair: ran.append(pair) or OK)
    larger = {**GRID, "scale": [0.01, 0.03, 0.1]}
    ran.clear()
    study = open_study(storage, larger)
    alphas.search(study, storage, larger, lambda pair: ran.append(pair) or OK)
    assert sorted(ran) == [(0.1, 0.1), (1.0, 0.1)]
    assert len(alphas.table(study, larger)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("error", [InputError("no data"), KeyboardInterrupt()])
def test_a_cell_that_was_stopped_is_run_again(storage, error):
    ran = []

    def stop(pair):
        ran.append(pair)
        raise error

    with pytest.raises(type(error)):
        alphas.search(open_study(storage), storage, GRID, stop)
    study = open_study(storage)
    alphas.search(study, storage, GRID, lambda pair: ran.append(pair) or OK)
    assert sorted(ran[1:]) == [(0.1, 0.01), (0.1, 0.03), (1.0, 0.01), (1.0, 0.03)]
    assert not alphas.missing(study, GRID)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "RUNNING"}


def test_another_studys_settings_are_refused(storage):
    open_study(storage)
    with pytest.raises(InputError, match="another training"):
        open_study(storage, settings={"training": {"n_epochs": 3}})


def test_a_study_that_another_process_holds(storage, tmp_path):
    study = open_study(storage)
    holder = sqlite3.connect(tmp_path / "study.db")
    holder.execute("BEGIN EXCLUSIVE")
    for attempt in (
        lambda: open_study(storage),
        lambda: alphas.search(study, storage, GRID, lambda pair: OK),
    ):
        with pytest.raises(InputError, match=r"database is locked.*run the same command") as error:
            attempt()
        assert "\n" not in str(error.value)
    holder.rollback()
    alphas.search(study, storage, GRID, lambda pair: OK)
    assert not alphas.missing(study, GRID)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("nonsense", "nonsense cannot be used"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open"),
        ("postgresql://me:secret@localhost:1/db", r"me:\*\*\*@localhost"),
    ],
)
def test_a_storage_that_cannot_be_used(storage, words):
    with pytest.raises(InputError, match=words) as error:
        open_study(storage)
    assert "secret" not in str(error.value)


def test_what_a_cell_gave_is_kept_beside_the_study(config_file, tmp_path, monkeypatch):
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
    again = alphas.run_cell(config, (3.0, 0.1), tmp_path / "cell", trials=2)
    assert again[:2] == cell[:2]
    assert len(calls) == 2
    assert json.loads((tmp_path / "cell" / "cell.json").read_text())["z_norm"] is None
