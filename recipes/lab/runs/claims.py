"""Jobs that any number of workers, on any number of machines, share through a study of Optuna.

A job is a trial of the study: waiting, running with signs of life (Optuna's heartbeat), complete
with what it gave in its attributes, or failed, which is given back. The storage lets one worker
alone set a waiting trial running, and fails a running one that was not heard of for a while.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
import warnings
from contextlib import contextmanager, suppress
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lab.baseline.config import SCHEMA
from lab.errors import RESUME_ME, InputError, Stopped, resumable
from lab.processes import CONTEXT, end, leave, start
from lab.runs.trials import first_difference

#: Seconds between two signs of life of a running job.
INTERVAL = 20
#: Seconds without one after which another worker may take the job.
GRACE = 120
LIVE = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)


class Job(NamedTuple):
    """What one worker at a time does.

    Attributes:
        name: the same on all machines.
        params: for Optuna's own tools.
    """

    name: str
    params: Mapping[str, float] = {}


class Given(NamedTuple):
    """What a job gave.

    Attributes:
        value: by which Optuna's own tools rank it.
        attributes: plain values, which all machines can read.
    """

    value: float
    attributes: Mapping[str, Any]


class Lost(Exception):
    """The job is another worker's: this one was not heard of for too long."""


def open_study(storage: str, name: str, settings: Mapping[str, Any]) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        storage: URL of a database that Optuna knows (sqlite, postgresql, mysql).
        name: of the study.
        settings: what makes two studies the same study; workers that come later may bring more
            sections.

    Raises:
        InputError: the study was begun with other settings, or the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage_errors(storage):
        study = optuna.create_study(
            study_name=name,
            storage=_connect(storage),
            sampler=optuna.samplers.RandomSampler(),
            direction="maximize",
            load_if_exists=True,
        )
        held = json.loads(study.user_attrs.get("settings", "{}"))
        now = json.loads(json.dumps(settings))
        common = [section for section in held if section in now]
        difference = first_difference(
            _with_later_keys({key: held[key] for key in common}, now),
            {key: now[key] for key in common},
        )
        if not difference and len(common) < len(now):
            study.set_user_attr("settings", json.dumps({**held, **now}, sort_keys=True))
    if difference:
        raise InputError(
            f"the study {name!r} in {hide_password(storage)} was begun with other settings "
            f"({difference}); give another --study"
        )
    return study


def _with_later_keys(before: Any, now: Any, section: str = "") -> Any:
    """Settings with the keys that came later, at the values that change nothing."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return before
    known = {key: default for key, (_, default) in SCHEMA.get(section, {}).items() if key in now}
    kept = {key: _with_later_keys(value, now.get(key), key) for key, value in before.items()}
    return {**json.loads(json.dumps(known)), **kept}


def _connect(storage: str) -> optuna.storages.RDBStorage:
    """Open the storage with heartbeats; its tables are made where there are none."""
    url = sqlalchemy.engine.make_url(storage)
    sqlite = url.get_backend_name() == "sqlite"
    connect: dict[str, Any] = {"isolation_level": None} if sqlite else {}
    if url.get_driver_name() == "psycopg":
        # Otherwise text is bytes where the server was set up without a language.
        connect = {"client_encoding": "utf8"}
    # Connections that the server has closed since are opened anew.
    options = {"pool_pre_ping": True, "connect_args": connect}
    for attempt in range(5):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                opened = optuna.storages.RDBStorage(
                    storage, options, heartbeat_interval=INTERVAL, grace_period=GRACE
                )
            break
        except sqlalchemy.exc.DBAPIError as error:
            # Workers that start together make the same tables: one of them succeeds.
            made = isinstance(
                error, (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError)
            )
            if attempt == 4 or not (made or "already exists" in str(error)):
                raise
            time.sleep(1)
    if sqlite:
        # Two processes would read a job as waiting before either of them writes; other databases
        # lock the row for it.
        sqlalchemy.event.listen(
            opened.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return opened


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Report in one sentence that a study's storage is locked, away or of another kind.

    Raises:
        InputError: instead of what Optuna or SQLAlchemy raise.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"the study's storage {hide_password(storage)} needs a driver that is not installed "
            f"({error.__cause__ or error}); pip install 'dcase-coherence[tune,postgres]' brings "
            "that of postgresql+psycopg://"
        ) from None
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:200]
        raise InputError(
            f"the study's storage {hide_password(storage)} cannot be used ({reason}); see to it "
            "and run the same command again: what is finished is kept"
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


def name_of(trial: FrozenTrial) -> str | None:
    """Job of a trial.

    Cells of grids that were begun before jobs had names have theirs by their parameters, once they
    are complete; those that were stopped have none and are not waited for.
    """
    if "job" in trial.user_attrs or trial.state != TrialState.COMPLETE:
        return trial.user_attrs.get("job")
    return job_name(trial.params)


def job_name(params: Mapping[str, float]) -> str:
    """Name of a job that is told by its parameters.

    Example:
        >>> job_name({"scale": 0.03, "ratio": 10 / 3})
        'ratio=3.33333_scale=0.03'
    """
    return "_".join(f"{key}={value:g}" for key, value in sorted(params.items()))


def finished(study: optuna.Study) -> dict[str, FrozenTrial]:
    """Trials of the jobs that are complete, by name."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {str(name_of(trial)): trial for trial in done}


def unfinished(study: optuna.Study, jobs: Sequence[Job]) -> list[str]:
    """Names of the jobs that are not complete."""
    done = finished(study)
    return [job.name for job in jobs if job.name not in done]


def left_to_others(study: optuna.Study, storage: str, jobs: Sequence[Job]) -> bool:
    """Say which jobs other workers still have; False where there is none."""
    with storage_errors(storage):
        left = unfinished(study, jobs)
    if left:
        print(
            f"{len(left)} of {len(jobs)} are left to other workers ({', '.join(left)}); the last "
            "of them reports, and so does this command once all are finished"
        )
    return bool(left)


def work(
    study: optuna.Study,
    storage: str,
    jobs: Sequence[Job],
    run: Callable[[str, Callable[[], None]], Given],
    worker: str = "",
) -> None:
    """Take jobs, one at a time, until there is none left to take; other workers do the same.

    Jobs that others run are waited for as long as it takes to see that these are alive.

    Args:
        study: as :func:`open_study` returns it.
        storage: its URL, for messages.
        jobs: all of them.
        run: does a job, of which it is told the name; it calls its other argument often, which
            raises where the job is this worker's no more.
        worker: who this is, for :func:`give_back`.

    Raises:
        InputError: the storage cannot be used. Whatever `run` raises, when the job is given back.
    """
    idle = None
    while True:
        with storage_errors(storage):
            if not unfinished(study, jobs):
                return
            trial = _claim(study, jobs, worker)
        if trial is None:
            idle = time.monotonic() if idle is None else idle
            if time.monotonic() - idle > GRACE + INTERVAL:
                return
            time.sleep(min(INTERVAL, 5))
            continue
        idle = None
        hold = _Hold(study, storage, trial)
        with suppress(Lost), hold:
            given = run(str(name_of(trial)), hold.check)
            with storage_errors(storage):
                hold.finish(given)


def _claim(study: optuna.Study, jobs: Sequence[Job], worker: str) -> FrozenTrial | None:
    """Take the first of the jobs that waits; None where others have all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    first = _first_trials(study)
    for job in jobs:
        if job.name not in first:
            _enqueue(study, job, jobs)
    first = _first_trials(study)
    for trial in (first[job.name] for job in jobs):
        if trial.state != TrialState.WAITING:
            continue
        # First, for a job that runs without a sign of life would never be taken by another.
        study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        with suppress(UpdateFinishedTrialError):
            if study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                study._storage.set_trial_user_attr(trial._trial_id, "worker", worker)
                return trial
    return None


def _enqueue(study: optuna.Study, job: Job, jobs: Sequence[Job]) -> None:
    ranges = {key: [one.params[key] for one in jobs] for key in job.params}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING,
            params=dict(job.params),
            distributions={
                key: optuna.distributions.FloatDistribution(min(values), max(values), log=True)
                for key, values in ranges.items()
            },
            user_attrs={"job": job.name},
        )
    )


def _first_trials(study: optuna.Study) -> dict[str, FrozenTrial]:
    """The trial of each job: the first that has not failed.

    Workers that start together may enqueue a job twice. Trials are numbered one after another by
    the storage, so all workers agree on the first.
    """
    first: dict[str, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=LIVE):
        name = name_of(trial)
        if name is not None:
            first.setdefault(name, trial)
    return first


class _Hold:
    """A job that this worker has: gives signs of life, and the job back when it fails."""

    def __init__(self, study: optuna.Study, storage: str, trial: FrozenTrial) -> None:
        self.study = study
        self.storage = storage
        self.trial = trial
        # By the clock that goes on while a machine sleeps.
        self.heard = time.time()
        self.lost = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if kind is not None:
            with suppress(StorageInternalError):
                self.study.tell(self.trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def check(self) -> None:
        """Raise where the job is another's, or may be, as the storage has been away for so long."""
        if time.time() - self.heard > GRACE:
            with storage_errors(self.storage):
                self._beat()
        if self.lost:
            raise Lost

    def finish(self, given: Given) -> None:
        """Leave what the job gave; a storage that is away is waited for."""
        deadline = time.monotonic() + GRACE
        while True:
            try:
                for key, value in given.attributes.items():
                    self.study._storage.set_trial_user_attr(self.trial._trial_id, key, value)
                self.study.tell(self.trial.number, given.value, skip_if_finished=True)
                return
            except UpdateFinishedTrialError:
                raise Lost from None
            except StorageInternalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(min(INTERVAL, 5))

    def _beat_on(self) -> None:
        while not self.over.wait(INTERVAL):
            with suppress(StorageInternalError):
                self._beat()

    def _beat(self) -> None:
        now = time.time()
        self.study._storage.record_heartbeat(self.trial._trial_id)  # type: ignore[attr-defined]
        state = self.study._storage.get_trial(self.trial._trial_id).state
        self.lost = state != TrialState.RUNNING
        self.heard = now


def give_back(study: optuna.Study, workers: Sequence[str]) -> None:
    """Give back at once what workers had that have ended; otherwise others would wait for it."""
    with suppress(StorageInternalError, UpdateFinishedTrialError):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") in workers:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


@resumable()
def side_by_side(
    count: int, study: optuna.Study, target: Callable[..., object], *arguments: object
) -> None:
    """Run workers of this machine in processes of their own.

    Args:
        count: of workers.
        study: whose jobs they take.
        target: a function of a module, called with the number of the worker, who it is (for
            :func:`work`) and the arguments.
        arguments: for all of them.

    Raises:
        InputError: one of them met input that it cannot use, or was killed.
        Stopped: one of them was told to stop.
    """
    names = [uuid.uuid4().hex for _ in range(count)]
    processes, said = [], []
    try:
        for number, name in enumerate(names):
            receiver, sender = CONTEXT.Pipe(duplex=False)
            processes.append(start(_worker, sender, target, number, name, *arguments))
            said.append(receiver)
        for process in processes:
            process.join()
    finally:
        end(processes)
        give_back(study, names)
    codes = {process.exitcode for process in processes}
    if codes & {RESUME_ME, -signal.SIGTERM}:
        raise Stopped("a worker was told to stop")
    if codes != {0}:
        words = [one.recv() for one in said if one.poll()]
        died = "a worker died; run the same command again to go on"
        raise InputError(words[0] if words else died)


def _worker(sender: Any, target: Callable[..., object], *arguments: object) -> None:
    signal.signal(signal.SIGTERM, leave)
    try:
        target(*arguments)
    except InputError as error:
        sender.send(str(error))
        raise SystemExit(2) from None
