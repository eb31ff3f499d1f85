"""Trials are shared through a study: each is trained once, and a killed worker loses nothing."""

import multiprocessing
import os
import signal
import time
from collections import Counter

import optuna
import pytest
import workers

from lab.errors import InputError, Stopped
from lab.runs import study

FORK = multiprocessing.get_context("fork")
TRIALS = [trial.name for trial in workers.trials_of("")]


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return request.getfixturevalue("server").database()


@pytest.fixture
def sqlite(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def share(storage, tmp_path, machine="first", pool=None, trials=None):
    pool = pool or workers.StandIn(tmp_path / "log")
    trials = trials or workers.trials_of(tmp_path / machine)
    return study.share(trials, pool, storage, "study", False)


def test_every_machine_has_the_records_of_all(sqlite, tmp_path):
    first = share(sqlite, tmp_path)
    assert [one["scores"]["test/student/event_f1_macro"] for one in first] == [
        *(0.42, 0.42, 0.43, 0.43, 0.44, 0.44)
    ]
    trained = Counter(line.trial for line in workers.read_log(tmp_path / "log"))
    assert trained == Counter({name: workers.EPOCHS for name in TRIALS})
    idle = workers.StandIn(tmp_path / "log")
    idle.train = pytest.fail
    assert share(sqlite, tmp_path, "second", idle) == first


def test_a_seed_stays_with_one_worker(sqlite, tmp_path):
    arguments = (sqlite, tmp_path / "place", tmp_path / "log", 0.05)
    processes = [FORK.Process(target=workers.work, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    lines = workers.read_log(tmp_path / "log")
    assert sorted({(line.trial, line.epoch) for line in lines}) == sorted(
        (name, epoch) for name in TRIALS for epoch in range(workers.EPOCHS)
    )
    for seed in (42, 43, 44):
        assert len({one.process for one in lines if one.trial.endswith(str(seed))}) == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(storage, tmp_path):
    log = tmp_path / "log"
    arguments = (storage, tmp_path / "place", log)
    killed = FORK.Process(target=workers.work, args=arguments)
    killed.start()
    deadline = time.monotonic() + 600  # a machine under load is slow
    while len(workers.read_log(log)) < workers.EPOCHS + 2:
        assert killed.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    before = workers.read_log(log)
    other = FORK.Process(target=workers.work, args=arguments)
    other.start()
    other.join()
    assert other.exitcode == 0  # it has seen the scores of all trials
    # What was trained is not trained again: the trial in hand goes on from its checkpoint.
    after = workers.read_log(log)
    assert {one.process for one in after[: len(before)]} == {killed.pid}
    assert {one.process for one in after[len(before) :]} == {other.pid}
    assert Counter((one.trial, one.epoch) for one in after) == Counter(
        (name, epoch) for name in TRIALS for epoch in range(workers.EPOCHS)
    )


def test_another_processor_trains_all_settings_of_a_seed(sqlite, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "GRACE", 1)
    monkeypatch.setattr(study, "INTERVAL", 1)
    monkeypatch.setattr(study, "WAIT", 0.1)
    pool = workers.StandIn(tmp_path / "log", size=1)

    def stopped(trials, keep):
        keep(trials[0], {"scores": {}, "processor": "another"})
        raise Stopped("by a signal")

    pool.train = stopped
    with pytest.raises(Stopped):
        share(sqlite, tmp_path, pool=pool)
    records = share(sqlite, tmp_path)
    assert "another" not in {record["processor"] for record in records}
    assert len(records) == len(TRIALS)


def test_a_trial_that_fails_is_trained_again_by_the_next_command(sqlite, tmp_path):
    pool = workers.StandIn(tmp_path / "log", size=1)

    def fail(trials, keep):
        raise InputError("steps, seed 42: no such file")

    pool.train = fail
    with pytest.raises(InputError, match="no such file"):
        share(sqlite, tmp_path, pool=pool)
    assert len(share(sqlite, tmp_path)) == len(TRIALS)


@pytest.mark.parametrize("gives_record", [True, False])
def test_a_worker_that_was_taken_for_dead_goes_on(sqlite, tmp_path, gives_record):
    pool = workers.StandIn(tmp_path / "log", size=1)
    train, lost = pool.train, []

    def train_once_in_vain(trials, keep):
        if not lost:
            other = study._open(sqlite, "study")
            (job,) = other.get_trials(states=[optuna.trial.TrialState.RUNNING])
            lost.append(job.number)
            other.tell(job.number, state=optuna.trial.TrialState.FAIL)
            optuna.storages.RetryHeartbeatStaleTrialCallback()(other, job)
            if not gives_record:
                return
        train(trials, keep)

    pool.train = train_once_in_vain
    assert len(share(sqlite, tmp_path, pool=pool)) == len(TRIALS)
    assert lost == [0]


def test_further_settings_and_seeds_join_the_study(sqlite, tmp_path):
    share(sqlite, tmp_path, trials=workers.trials_of(tmp_path, seeds=1))
    more = workers.trials_of(tmp_path, settings=("baseline", "exact"), seeds=2)
    assert len(share(sqlite, tmp_path, trials=more)) == 4
    trained = Counter(line.trial for line in workers.read_log(tmp_path / "log"))
    assert set(trained.values()) == {workers.EPOCHS}


@pytest.mark.parametrize("change", [{"training": {"seed": 7}}, {"net": {"nclass": 1, "cell": 8}}])
def test_other_settings_are_another_study(sqlite, tmp_path, change):
    share(sqlite, tmp_path)
    other = workers.trials_of(tmp_path, **change)
    with pytest.raises(InputError, match="study 'study'"):
        share(sqlite, tmp_path, trials=other)


@pytest.mark.parametrize(
    ("storage", "named"),
    [
        ("nonsense", "nonsense"),
        ("sqlite:////nowhere/study.db", "nowhere"),
        ("postgresql+psycopg://me:secret@localhost:1/none", r"me:\*\*\*@localhost"),
        ("postgresql+nodriver://localhost/none", "nodriver"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence(storage, named, tmp_path):
    with pytest.raises(InputError, match=named) as error:
        share(storage, tmp_path)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
