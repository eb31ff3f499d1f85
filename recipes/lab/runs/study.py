"""Trials that many machines share, by a study of Optuna in a database.

A job of the study is a seed with the settings that are trained from it: one machine trains all of
them, as another processor would round otherwise. Jobs are enqueued by whoever comes first, and
taken by whoever has a free core. Workers give signs of life (Optuna's heartbeat); the job of one
that gives none is enqueued again, with the records that it left.
"""

from __future__ import annotations

import logging
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from lab.data.digests import set_digests
from lab.devices import processor
from lab.errors import InputError
from lab.runs.results import joined
from lab.runs.trials import Trial, without_paths

if TYPE_CHECKING:
    from lab.runs.pool import Pool

#: Seconds between two signs of life of a running job.
INTERVAL = 20
#: Seconds without one after which the job is enqueued again.
GRACE = 120
#: Seconds between two looks whether there is a job to take.
WAIT = 5
LIVE = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)


def share(
    trials: Sequence[Trial], pool: Pool, storage: str, name: str, fast_dev_run: bool
) -> list[dict[str, Any]]:
    """Take jobs until all are finished, by this worker's pool or others, and return the records.

    Raises:
        InputError: the storage cannot be used, the study was begun with other settings or data,
            or a trial failed here or on another machine.
        Stopped: a process was told to stop.
    """
    with _one_sentence(storage):
        study = _open(storage, name)
        what = f"the study {name!r} in {hide_password(storage)}"
        entry = _entry(trials, fast_dev_run)
        study.set_user_attr("set", joined(what, study.user_attrs.get("set", {}), entry))
        _enqueue(study, trials)
        takers = max(pool.size // len({trial.setting for trial in trials}), 1)
        with ThreadPoolExecutor(takers) as executor:
            futures = [executor.submit(_take, study, trials, pool) for _ in range(takers)]
            try:
                wait(futures)
            except BaseException:
                pool.close()  # a signal: its job is enqueued again, as if the worker was killed
                raise
        for future in futures:
            future.result()
        records = _records(study)
    missing = [trial.name for trial in trials if (trial.setting, trial.number) not in records]
    if missing:
        raise InputError(
            f"{len(missing)} trials failed on other machines (first {missing[0]}); run the same "
            "command again"
        )
    return [records[trial.setting, trial.number] for trial in trials]


def _entry(trials: Sequence[Trial], fast_dev_run: bool) -> dict[str, Any]:
    """What makes two studies the same, on whatever machine."""
    config, public = trials[0].config, trials[0].public
    digests = set_digests(config, public=public)
    settings = {
        trial.setting: without_paths(trial.config) if trial.coherence else None for trial in trials
    }
    seed = config["training"]["seed"]
    return {
        "configuration": {"seed": seed, "public": public, "fast_dev_run": fast_dev_run},
        "data": {key: value for key, value in digests.items() if value},
        "settings": settings,
    }


def _open(storage: str, name: str) -> optuna.Study:
    """Open a study, or begin it."""
    optuna.logging.set_verbosity(logging.CRITICAL)  # a job that fails is told by its worker
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    url = sqlalchemy.engine.make_url(storage)
    sqlite = url.get_backend_name() == "sqlite"
    # It waits for another process's write; a transaction is begun below.
    connect: dict[str, Any] = {"timeout": 60, "isolation_level": None} if sqlite else {}
    if url.get_driver_name() == "psycopg":
        # Otherwise text is bytes where the server was set up without a language.
        connect = {"client_encoding": "utf8"}
    for attempt in range(5):
        try:
            opened = optuna.storages.RDBStorage(
                storage,
                # Connections that the server has closed since are opened anew.
                {"pool_pre_ping": True, "connect_args": connect},
                heartbeat_interval=INTERVAL,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
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
        # Two processes would read a job as waiting before either writes; others lock the row.
        sqlalchemy.event.listen(
            opened.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return optuna.create_study(
        study_name=name, storage=opened, direction="maximize", load_if_exists=True
    )


def _enqueue(study: optuna.Study, trials: Sequence[Trial]) -> None:
    """Enqueue each seed, with the settings that no job has yet."""
    taken = {pair for job in _jobs(study, LIVE) for pair in _pairs(job)}
    for number in sorted({trial.number for trial in trials}):
        settings = [trial.setting for trial in trials if trial.number == number]
        left = [setting for setting in settings if (setting, number) not in taken]
        if left:
            study.enqueue_trial({}, user_attrs={"number": number, "settings": left})


def _jobs(study: optuna.Study, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
    """Trials of the study that were enqueued: Optuna makes one of its own where none waits."""
    jobs = study.get_trials(deepcopy=False, states=tuple(states) if states else None)
    return [job for job in jobs if "number" in job.user_attrs]


def _pairs(job: FrozenTrial) -> list[tuple[str, int]]:
    return [(setting, job.user_attrs["number"]) for setting in job.user_attrs["settings"]]


def _records(study: optuna.Study) -> dict[tuple[str, int], dict[str, Any]]:
    """What the trials of all workers left, by setting and number."""
    return {
        pair: job.user_attrs[_key(pair[0])]
        for job in _jobs(study)
        for pair in _pairs(job)
        if _key(pair[0]) in job.user_attrs
    }


def _key(setting: str) -> str:
    return f"record of {setting}"


def _take(study: optuna.Study, trials: Sequence[Trial], pool: Pool) -> None:
    """Take jobs until all have ended; those of others are waited for, as these may die."""
    here = processor(pool.device)
    taken: list[int] = []

    def ended(number: int) -> bool:
        return study.get_trials(deepcopy=False)[number].state.is_finished()

    def objective(job: optuna.Trial) -> float:
        taken.append(job.number)
        earlier = [one for one in _jobs(study, LIVE) if one.number < job.number]
        others = {pair for one in earlier for pair in _pairs(one)}
        number = job.user_attrs.get("number")
        own = [
            trial
            for trial in trials
            if trial.number == number and trial.setting in job.user_attrs["settings"]
            # Workers that start together may enqueue a seed twice.
            if (trial.setting, number) not in others
        ]
        if not own:
            raise optuna.TrialPruned
        # Of a job that was enqueued again some may be done, with this machine's rounding or not.
        done = {name: job.user_attrs.get(_key(name), {}) for name in job.user_attrs["settings"]}
        left = [trial for trial in own if done[trial.setting].get("processor") != here]
        pool.train(left, lambda trial, record: job.set_user_attr(_key(trial.setting), record))
        return 0.0

    while not pool.ended.is_set():
        optuna.storages.fail_stale_trials(study)
        if _jobs(study, [TrialState.WAITING]):
            try:
                study.optimize(objective, n_trials=1)
            except InputError:
                raise
            except (AssertionError, ValueError, UpdateFinishedTrialError) as error:
                # So says Optuna where the job of a worker not heard of for long was ended.
                if not ended(taken[-1]):
                    raise error.__context__ or error from None
        elif _jobs(study, [TrialState.RUNNING]):
            pool.ended.wait(WAIT)
        else:
            return


@contextmanager
def _one_sentence(storage: str) -> Iterator[None]:
    """Tell in one sentence what is wrong with a storage.

    Raises:
        InputError: instead of what Optuna or SQLAlchemy raise.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"--storage {hide_password(storage)} needs a driver that is not installed "
            f"({error.__cause__ or error}); pip install 'dcase-coherence[tune,postgres]' brings "
            "that of postgresql+psycopg://"
        ) from None
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())[:200]
        raise InputError(
            f"--storage {hide_password(storage)} cannot be used ({reason}); see to it and run the "
            "same command again: what is finished is kept"
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
