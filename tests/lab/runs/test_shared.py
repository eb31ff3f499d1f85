"""Trials are shared through a study: each is run once, and every machine can report all of them."""

import copy
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs pip install '.[tune]'")

import workers

from lab.baseline.config import load_config
from lab.errors import InputError
from lab.runs import claims, shared
from lab.runs.shared import run_shared
from lab.runs.trials import Trial, TrialFailed, read_record, write_record

OPTIONS = {"fast_dev_run": False, "verify_psds": False}


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db?timeout=60"


@pytest.fixture
def make(config_file, tmp_path):
    """Make the trials of two arms in the folder of a machine."""

    def make(machine, seeds=2, public=False, **changes):
        config = load_config(config_file)
        config["training"].update(n_epochs=4, batch_size=[2, 0, 0], teacher=False)
        for name, values in changes.items():
            config[name].update(values)
        return [
            Trial(f"{arm} {n + 1}", config, arm == "coherence", n, place / f"trial_{n}", public)
            for n in range(seeds)
            for arm in ("baseline", "coherence")
            for place in [tmp_path / machine / arm]
        ]

    return make


def score_of(trial):
    return trial.number + 0.5 * trial.coherence


def stand_in(log, fail=(), seconds=0):
    """Training in four epochs, written down one by one; some trials fail."""

    def train(trial, gpus, *, report, **options):
        table = trial.folder / "epochs.tsv"
        trial.folder.mkdir(parents=True, exist_ok=True)
        rows = table.read_text().splitlines() if table.exists() else ["epoch\tloss"]
        for epoch in range(len(rows) - 1, 4):
            time.sleep(seconds)
            report(epoch, 4, "loss 0.5")
            rows.append(f"{epoch}\t{score_of(trial)}")
            table.write_text("\n".join(rows) + "\n")
            with open(log, "a") as file:
                file.write(f"{os.getpid()}\t{trial.name}\t{epoch}\n")
        if trial.name in fail:
            raise fail[trial.name]
        scores = {"test/student/event_f1_macro": score_of(trial), "hp_metric": 0.5}
        found = {"scores": scores, "checkpoint": "epoch=3.ckpt"}
        if trial.public:
            folder = trial.config["data"]["public_folder"]
            found["public"] = {"folder": folder, "data": None, "scores": {"public/a": 0.25}}
        write_record(trial, found)
        return {**scores, **found.get("public", {}).get("scores", {})}

    return train


def train_all(trials, storage, worker="worker"):
    """What one worker's process does."""
    settings = shared.settings_of(trials, OPTIONS)
    place = (["cpu"], 1, False, OPTIONS)
    shared.trial_worker(0, worker, trials, storage, "study", settings, *place)


def report(trials, storage, **changes):
    options = {"gpus": "cpu", "progress": False, "options": OPTIONS, **changes}
    return run_shared(trials, storage, "study", **options)


@pytest.fixture
def trained(make, storage, tmp_path, monkeypatch):
    """Trials that a machine has trained; none is left to another."""
    monkeypatch.setattr(shared, "side_by_side", lambda *_: pytest.fail("nothing is left to train"))

    def trained(fail=(), **options):
        monkeypatch.setattr(shared, "run_trial", stand_in(tmp_path / "log", fail))
        trials = make("first", **options)
        train_all(trials, storage)
        return trials

    return trained


def copy_of_data(data, tmp_path):
    """The same clips and tables at another place."""
    root = Path(os.path.commonpath([data["synth_folder"], data["synth_tsv"]]))
    shutil.copytree(root, tmp_path / "copy")
    return {
        key: str(tmp_path / "copy" / Path(path).relative_to(root))
        for key, path in data.items()
        if isinstance(path, str) and Path(path).is_relative_to(root)
    }


def test_every_machine_reports_what_any_of_them_has_trained(trained, make, storage, tmp_path):
    trials = trained()
    scores = [{"test/student/event_f1_macro": x, "hp_metric": 0.5} for x in (0.0, 0.5, 1.0, 1.5)]
    assert report(trials, storage) == scores
    # Another machine, which has nothing of it, and another place of the data.
    folder = copy_of_data(trials[0].config["data"], tmp_path)
    others = make("second", data=folder)
    assert report(others, storage) == scores
    for one, other in zip(trials, others):
        assert (other.folder / "epochs.tsv").read_text() == (one.folder / "epochs.tsv").read_text()
        found, own = read_record(other), read_record(one)
        assert {**found, "settings": own["settings"]} == own


def test_the_public_sets_scores_are_known_at_any_place_of_it(trained, make, storage):
    trained(seeds=1, public=True, data={"public_folder": "/here"})
    others = make("second", seeds=1, public=True, data={"public_folder": "/there"})
    assert [one["public/a"] for one in report(others, storage)] == [0.25] * 2


def test_one_that_diverges_is_told_to_all_and_costs_the_others_nothing(trained, make, storage):
    trials = trained({"coherence 1": FloatingPointError("the training loss is nan")})
    for each in (trials, make("second")):
        with pytest.raises(TrialFailed, match=r"^coherence 1: the training loss is nan$"):
            report(each, storage)
        finished = [trial.name for trial in each if "scores" in read_record(trial)]
        assert finished == ["baseline 1", "baseline 2", "coherence 2"]
        # As far as it came it can be drawn.
        assert len((each[1].folder / "epochs.tsv").read_text().splitlines()) == 5


def test_one_that_a_machine_cannot_train_is_left_to_the_others(
    make, storage, tmp_path, monkeypatch, capsys
):
    fail = {"coherence 1": InputError("clip.wav is damaged")}
    monkeypatch.setattr(shared, "run_trial", stand_in(tmp_path / "log", fail))
    with pytest.raises(InputError, match=r"^coherence 1: clip\.wav is damaged$"):
        train_all(make("first"), storage)
    monkeypatch.setattr(shared, "side_by_side", lambda *_: None)
    assert report(make("first"), storage) == []
    said = capsys.readouterr().out
    assert "3 of 4 are left to other workers (coherence 1, baseline 2, coherence 2)" in said
    fail.clear()
    train_all(make("second"), storage)
    assert len(report(make("first"), storage)) == 4


def test_seeds_and_arms_may_be_added(trained, make, storage, tmp_path):
    trained(seeds=1)
    more = make("first", seeds=2)
    train_all(more, storage)
    assert len(report(more, storage)) == 4
    assert len((tmp_path / "log").read_text().splitlines()) == 4 * 4
    assert len(report(more[:1], storage)) == 1


def test_a_study_of_other_settings_or_data_is_refused(trained, make, storage):
    trained(seeds=1)
    for changes, words in (
        ({"opt": {"lr": 0.5}}, r"\(baseline\.opt\.lr was 0\.001, is 0\.5\); give another --study"),
        ({"training": {"n_epochs": 9}}, r"baseline\.training\.n_epochs was 4, is 9"),
        ({"public": True}, r"baseline\.public was False, is True"),
        ({"data": {"test_tsv": "none.tsv"}}, r"digests\.of the test set was '\w+', is None"),
    ):
        said = r"'study' in sqlite\S+ was begun with other.*" + words
        with pytest.raises(InputError, match=said):
            report(make("second", **changes), storage)


def test_a_folder_of_another_run_is_refused(trained, make, storage):
    trained(seeds=1)
    others = make("second", seeds=1)
    config = copy.deepcopy(others[0].config)
    config["opt"]["lr"] = 0.5
    write_record(others[0]._replace(config=config), {"scores": {}})
    with pytest.raises(InputError, match=r"holds a run with other settings \(opt\.lr was 0\.5"):
        report(others, storage)
    assert json.loads(others[0].record.read_text())["settings"]["config"]["opt"]["lr"] == 0.5


def test_one_training_in_several_processes_is_not_shared(make, storage, monkeypatch):
    said = "--storage shares trials that are trained by one process each"
    with pytest.raises(InputError, match=said):
        report(make("first", training={"backend": "ddp"}), storage)
    monkeypatch.setattr(shared, "started_together", lambda: (2, 1))
    with pytest.raises(InputError, match=said):
        report(make("first"), storage)


@pytest.mark.slow
def test_a_killed_workers_trial_is_taken_up_by_another_machines(
    server, make, tmp_path, monkeypatch
):
    monkeypatch.setattr(claims, "INTERVAL", 1)
    monkeypatch.setattr(claims, "GRACE", 3)
    monkeypatch.setattr(shared, "run_trial", stand_in(tmp_path / "log", seconds=0.2))
    context, storage = multiprocessing.get_context("fork"), server.database()

    def begin(machine):
        process = context.Process(target=train_all, args=(make(machine), storage, machine))
        process.start()
        return process

    first, second = begin("first"), begin("second")
    killed = workers.kill_in_a_job(first, second, tmp_path / "log")
    for name, by in workers.read_log(tmp_path / "log").items():
        assert by.get(second.pid if name == killed else next(iter(by))) == [0, 1, 2, 3]
        assert len(by) == 1 + (name == killed)
    # The first machine reports the same as the second.
    monkeypatch.setattr(shared, "side_by_side", lambda *_: pytest.fail("nothing is left to train"))
    scores = [report(make(machine), storage) for machine in ("first", "second")]
    assert scores[0] == scores[1]
    found = [one["test/student/event_f1_macro"] for one in scores[0]]
    assert found == [score_of(trial) for trial in make("first")]
