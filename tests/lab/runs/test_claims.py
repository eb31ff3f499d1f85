"""Jobs are claimed once, given back, taken from the dead, and told in one sentence."""

import json
import multiprocessing
import sqlite3
import threading
import time

import pytest

pytest.importorskip("optuna", reason="needs pip install '.[tune]'")

import optuna
import workers

from lab.errors import RESUME_ME, InputError, Stopped
from lab.runs import claims
from lab.runs.claims import Given, Job

SETTINGS = {"training": {"n_epochs": 2}}
JOBS = [Job("a"), Job("b"), Job("c")]


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/study.db?timeout=60"


@pytest.fixture
def fast(monkeypatch):
    """Signs of life every second, and an end to patience after two."""
    monkeypatch.setattr(claims, "INTERVAL", 1)
    monkeypatch.setattr(claims, "GRACE", 2)


def open_study(storage, settings=SETTINGS):
    return claims.open_study(storage, "study", settings)


def working(storage, run=lambda name, check: None, jobs=JOBS):
    """Work on the jobs; returns the names of those that were run."""
    ran = []

    def counted(name, check):
        ran.append(name)
        run(name, check)
        return Given(1.0, {"from": name})

    claims.work(open_study(storage), storage, jobs, counted)
    return ran


def states(storage):
    found = {}
    for trial in open_study(storage).trials:
        found.setdefault(trial.user_attrs["job"], []).append(trial.state.name)
    return found


def test_each_job_is_run_once_and_what_it_gave_is_found(storage):
    assert working(storage) == ["a", "b", "c"]
    assert working(storage) == []
    study = open_study(storage)
    assert claims.unfinished(study, [*JOBS, Job("d")]) == ["d"]
    assert claims.finished(study)["b"].user_attrs["from"] == "b"
    # More jobs are more to do, fewer are fewer.
    assert working(storage, jobs=[Job("d"), Job("a")]) == ["d"]


@pytest.mark.parametrize("error", [InputError("no data"), KeyboardInterrupt(), Stopped("stopped")])
def test_a_job_that_was_stopped_is_given_back_at_once(storage, error):
    def stop(name, check):
        raise error

    with pytest.raises(type(error)):
        working(storage, stop)
    assert working(storage) == ["a", "b", "c"]
    assert states(storage) == {"a": ["FAIL", "COMPLETE"], "b": ["COMPLETE"], "c": ["COMPLETE"]}


def test_a_job_that_was_enqueued_twice_is_run_once(storage):
    study = open_study(storage)
    for _ in range(2):
        claims._enqueue(study, JOBS[0], JOBS)
    assert working(storage) == ["a", "b", "c"]
    assert states(storage)["a"] == ["COMPLETE", "WAITING"]


def test_a_job_of_a_dead_worker_is_taken_after_the_heartbeat(storage, fast):
    study = open_study(storage)
    dead = claims._claim(study, JOBS, "dead")
    assert dead.user_attrs["job"] == "a"
    # Its first sign of life is that it has it: there is no moment in which it could be forgotten.
    with sqlite3.connect(storage[len("sqlite:///") : -len("?timeout=60")]) as database:
        assert database.execute("SELECT count(*) FROM trial_heartbeats").fetchone() == (1,)
    begun = time.monotonic()
    assert working(storage) == ["b", "c", "a"]
    assert time.monotonic() - begun >= claims.GRACE - 1
    assert states(storage)["a"] == ["FAIL", "COMPLETE"]


def test_a_job_of_a_worker_that_is_alive_is_left_to_it(storage, fast):
    going_on = threading.Event()
    first = threading.Thread(
        target=working, args=(storage, lambda name, check: going_on.wait(60), JOBS[:1])
    )
    first.start()
    while "a" not in states(storage):
        time.sleep(0.05)
    # It is waited for as long as it takes to see that it is alive.
    assert working(storage) == ["b", "c"]
    study = open_study(storage)
    assert claims.unfinished(study, JOBS) == ["a"]
    going_on.set()
    first.join()
    assert states(storage)["a"] == ["COMPLETE"]
    assert not claims.unfinished(study, JOBS)


def test_what_is_left_to_others_is_said(storage, capsys):
    study = open_study(storage)
    assert claims.left_to_others(study, storage, JOBS)
    assert "3 of 3 are left to other workers (a, b, c)" in capsys.readouterr().out
    working(storage)
    assert not claims.left_to_others(study, storage, JOBS)
    assert capsys.readouterr().out == ""


def test_a_worker_that_was_taken_for_dead_leaves_the_job(storage, fast):
    study, taken = open_study(storage), []

    def run(name, check):
        if name != "a" or taken:
            return
        # As one that slept: its job was given to another meanwhile.
        taken.append(name)
        trial = next(t for t in study.trials if t.user_attrs["job"] == "a")
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            check()
            time.sleep(0.1)
        pytest.fail("it went on")

    # Then it is there for all, this worker too.
    assert working(storage, run) == ["a", "a", "b", "c"]
    assert states(storage)["a"] == ["FAIL", "COMPLETE"]


def test_what_comes_too_late_is_left_out(storage):
    study = open_study(storage)

    def run(name, check):
        if len(study.trials) == 3:
            study.tell(0, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    assert working(storage, run) == ["a", "a", "b", "c"]
    assert claims.finished(study)["a"].number == 3


def test_a_storage_that_is_away_for_a_while_costs_nothing(storage, fast, monkeypatch):
    away = []
    backend = optuna.storages.RDBStorage

    def failing(name):
        real = getattr(backend, name)

        def call(self, *arguments, **options):
            if away:
                away.append(name)
                raise optuna.exceptions.StorageInternalError("away")
            return real(self, *arguments, **options)

        monkeypatch.setattr(backend, name, call)

    for name in ("record_heartbeat", "set_trial_user_attr"):
        failing(name)

    def run(name, check):
        if name == "b":
            away.append("now")
            time.sleep(1.5)
            check()
            threading.Timer(0.7, away.clear).start()

    assert working(storage, run) == ["a", "b", "c"]
    assert {tuple(one) for one in states(storage).values()} == {("COMPLETE",)}


def test_a_storage_that_stays_away_is_a_sentence_and_the_job_is_given_up(
    storage, fast, monkeypatch
):
    def run(name, check):
        def fail(*_):
            raise optuna.exceptions.StorageInternalError("gone")

        monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", fail)
        check()  # not at once: others cannot have it yet
        time.sleep(claims.GRACE + 0.5)
        check()

    with pytest.raises(InputError, match=r"cannot be used \(gone\).*what is finished is kept"):
        working(storage, run)


def test_what_ended_workers_had_is_given_back(storage):
    study = open_study(storage)
    for worker in ("one", "other"):
        claims._claim(study, JOBS, worker)
    claims.give_back(study, ["one", "none"])
    assert states(storage) == {"a": ["FAIL"], "b": ["RUNNING"], "c": ["WAITING"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (workers.fails, InputError, r"^worker 0 met bad input$"),
        (workers.is_killed, InputError, r"^a worker died; run the same command again to go on$"),
        (workers.is_told_to_stop, Stopped, None),
    ],
)
def test_how_a_process_of_a_worker_ends_is_said_and_its_job_is_free(storage, target, error, words):
    study = open_study(storage)
    with pytest.raises(error, match=words) as raised:
        claims.side_by_side(1, study, target, storage, JOBS[:1])
    if error is Stopped:
        assert (raised.value.code, raised.value.what) == (RESUME_ME, "a worker was told to stop")
    assert states(storage).get("a", ["FAIL"]) == ["FAIL"]
    assert working(storage, jobs=JOBS[:1]) == ["a"]


def claim_all(storage, jobs, barrier, queue):
    barrier.wait()
    study = open_study(storage)
    while True:
        trial = claims._claim(study, jobs, "")
        if trial is None:
            break
        queue.put(trial.user_attrs["job"])
    queue.put(None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_never_claim_a_job_twice(kind, request, storage):
    if kind == "postgresql":
        storage = request.getfixturevalue("server").database()
    jobs = [Job(str(n)) for n in range(20)]
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    # They make the tables together, too.
    processes = [
        context.Process(target=claim_all, args=(storage, jobs, barrier, queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    claimed, ended = [], 0
    while ended < 3:
        name = queue.get(timeout=120)
        ended += name is None
        claimed += [name] * (name is not None)
    for process in processes:
        process.join()
    assert sorted(claimed) == sorted(job.name for job in jobs)


@pytest.mark.slow
def test_a_server_that_is_restarted_costs_nothing_and_one_that_is_away_a_sentence(server, fast):
    storage = server.database()

    def restart(name, check):
        if name == "a":
            server.stop()
            check()
            server.start()
            check()

    assert working(storage, restart, JOBS[:2]) == ["a", "b"]
    assert states(storage) == {"a": ["COMPLETE"], "b": ["COMPLETE"]}

    def stop(name, check):
        server.stop()
        time.sleep(claims.GRACE + 0.5)
        check()

    said = r"cannot be used \(connection failed: .*refused.*\); see to it and run the same command"
    with pytest.raises(InputError, match=said) as error:
        working(storage, stop)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=said):
        open_study(storage)
    server.start()
    assert working(storage) == ["c"]


def test_another_studys_settings_are_refused(storage):
    open_study(storage)
    said = r"'study' in sqlite\S+ was begun with other settings \(training\.n_epochs was 2, is 3\)"
    with pytest.raises(InputError, match=said) as error:
        open_study(storage, {"training": {"n_epochs": 3}})
    assert "\n" not in str(error.value)


def test_a_study_may_have_more_sections(storage):
    open_study(storage)
    open_study(storage, {"other": {"lr": 1}})
    held = json.loads(open_study(storage).user_attrs["settings"])
    assert held == {**SETTINGS, "other": {"lr": 1}}
    with pytest.raises(InputError, match=r"other\.lr was 1, is 2"):
        open_study(storage, {**SETTINGS, "other": {"lr": 2}})


def test_a_study_that_another_process_holds(storage, tmp_path):
    storage = storage.replace("timeout=60", "timeout=1")
    open_study(storage)
    holder = sqlite3.connect(tmp_path / "study.db")
    holder.execute("BEGIN EXCLUSIVE")
    for attempt in (open_study, working):
        with pytest.raises(InputError, match=r"database is locked.*run the same command") as error:
            attempt(storage)
        assert "\n" not in str(error.value)
    holder.rollback()
    assert working(storage) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("nonsense", "nonsense cannot be used"),
        ("sqlite:////nowhere/at/all/study.db", "unable to open"),
        ("postgresql+psycopg://me:secret@localhost:1/db", r"me:\*\*\*@localhost.*"),
        ("nothing+here://me:secret@localhost/db", r"me:\*\*\*@localhost.*"),
        ("mysql://me:secret@localhost/db", "needs a driver that is not installed"),
    ],
)
def test_a_storage_that_cannot_be_used(storage, words):
    with pytest.raises(InputError, match=words) as error:
        open_study(storage)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
