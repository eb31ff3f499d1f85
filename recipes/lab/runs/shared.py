"""Trials that any number of machines share: each is claimed in a study, and told to all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import optuna
import torch

from lab.data.digests import digest, set_digests
from lab.devices import started_together
from lab.errors import InputError
from lab.files import write_whole
from lab.processes import leave_with_parent
from lab.runs.claims import (
    Given,
    Job,
    finished,
    left_to_others,
    open_study,
    side_by_side,
    storage_errors,
    unfinished,
    work,
)
from lab.runs.trials import (
    Display,
    Trial,
    TrialFailed,
    places_for,
    read_record,
    run_trial,
    scores_of,
    write_record,
)


def run_shared(
    trials: Sequence[Trial],
    storage: str,
    study: str,
    *,
    gpus: str | None,
    progress: bool,
    options: Mapping[str, bool],
) -> list[dict[str, float]]:
    """Take trials of a study until none is left to take, and return the scores of all of them.

    What the other machines' trials gave, `trial.json` and `epochs.tsv`, is written into the folders
    of the trials where these do not have it.

    Args:
        trials: all of them, with a folder each.
        storage: URL of a database.
        study: its name.
        gpus: the official flag; as many trials at a time as there are GPUs, or cores.
        progress: show lines.
        options: of :func:`lab.runs.trials.run_trial`.

    Returns:
        As :func:`lab.runs.trials.run_trials`; nothing while others have trials.

    Raises:
        InputError: the storage cannot be used, the study was begun with other settings or data, a
            folder holds another run, or a trial met input that it cannot use.
        TrialFailed: a trial diverged; the others are finished.
        Stopped: a process was told to stop.
    """
    if started_together() != (1, 1) or trials[0].config["training"]["backend"] == "ddp":
        raise InputError(
            "--storage shares trials that are trained by one process each; start the command by "
            "itself, as often as you like, without training.backend=ddp"
        )
    digest.cache_clear()
    jobs = [Job(trial.name) for trial in trials]
    settings = settings_of(trials, options)
    opened = open_study(storage, study, settings)
    fetch(opened, storage, trials)
    for trial in trials:
        read_record(trial)  # a folder of another run is refused before anything is trained
    with storage_errors(storage):
        left = len(unfinished(opened, jobs))
    if left:
        places, threads = places_for(trials, gpus)
        arguments = (trials, storage, study, settings, places, threads, progress, options)
        side_by_side(min(len(places), left), opened, trial_worker, *arguments)
    if left_to_others(opened, storage, jobs):
        return []
    fetch(opened, storage, trials)
    done = finished(opened)
    for trial in trials:
        if "error" in done[trial.name].user_attrs:
            raise TrialFailed(f"{trial.name}: {done[trial.name].user_attrs['error']}")
    return [scores_of(trial, read_record(trial)) or {} for trial in trials]


def settings_of(trials: Sequence[Trial], options: Mapping[str, bool]) -> dict[str, Any]:
    """What makes two studies the same study, on whatever machine."""
    settings: dict[str, Any] = {}
    for trial in trials:
        found = trial.settings()
        del found["number"]
        config = found["config"]
        config["data"] = {k: v for k, v in config["data"].items() if not k.endswith("_folder")}
        settings[trial.folder.parent.name] = {**found, "public": trial.public}
    digests = set_digests(trials[0].config, public=trials[0].public)
    settings["digests"] = {f"of the {name} set": value for name, value in digests.items()}
    settings["fast_dev_run"] = options["fast_dev_run"]
    return settings


def trial_worker(
    number: int,
    worker: str,
    trials: Sequence[Trial],
    storage: str,
    study: str,
    settings: Mapping[str, Any],
    places: Sequence[str],
    threads: int,
    progress: bool,
    options: Mapping[str, bool],
) -> None:
    """Train trials in this process, one of several of this machine.

    Args:
        number: of the process, which has a place of its own.
        worker: who this is.
        trials: see :func:`run_shared`, as what follows.
        storage: URL.
        study: its name.
        settings: of the study.
        places: GPUs, or cores.
        threads: of this process.
        progress: show lines.
        options: of the trials.
    """
    torch.set_num_threads(threads)
    # Lines, for the bars of several processes would be drawn over each other.
    display = Display(trials, progress, bars=False)
    names = [trial.name for trial in trials]

    def run(name: str, check: Callable[[], None]) -> Given:
        index = names.index(name)
        trial = trials[index]

        def report(*content: Any) -> None:
            leave_with_parent()
            check()
            display.show(index, *content)

        try:
            scores = run_trial(trial, places[number], report=report, **options)
        except FloatingPointError as error:
            return Given(0.0, {"error": str(error), "epochs": _table(trial)})
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        record = {key: value for key, value in read_record(trial).items() if key != "settings"}
        return Given(scores["hp_metric"], {"record": record, "epochs": _table(trial)})

    work(open_study(storage, study, settings), storage, [Job(name) for name in names], run, worker)


def fetch(study: optuna.Study, storage: str, trials: Sequence[Trial]) -> None:
    """Write what other machines' trials gave into the folders of the trials.

    Raises:
        InputError: a folder holds another run, or the storage cannot be used.
    """
    with storage_errors(storage):
        done = finished(study)
    for trial in trials:
        if trial.name not in done or "scores" in read_record(trial):
            continue
        given = done[trial.name].user_attrs
        if given["epochs"]:
            write_whole(_path(trial), given["epochs"])
        if "record" in given:
            record = dict(given["record"])
            if "public" in record:
                # The same set, by its digest, at another place.
                folder = trial.config["data"]["public_folder"]
                record["public"] = {**record["public"], "folder": folder}
            write_record(trial, record)


def _path(trial: Trial) -> Path:
    return trial.folder / "epochs.tsv"


def _table(trial: Trial) -> str:
    """Text of the epochs' table; empty where no epoch was finished."""
    return _path(trial).read_text() if _path(trial).exists() else ""
