"""Run trials side by side, one process a core or GPU, each resumable and kept when finished."""

from __future__ import annotations

import functools
import json
import queue
import signal
import sys
import time
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from lab.baseline.config import SCHEMA
from lab.baseline.experiment import build, fixes_epochs
from lab.data.classes import classes_of
from lab.data.desed import CLASSES
from lab.data.digests import digest, set_digests
from lab.devices import (
    choose_devices,
    cores,
    own_rank,
    processor,
    started_together,
)
from lab.errors import RESUME_ME, InputError, Stopped, resumable, stop
from lab.files import remove_left_over, write_whole
from lab.processes import CONTEXT, end, leave, leave_with_parent, start
from lab.runs.epochs import EpochTable


class Trial(NamedTuple):
    """One training run with its test.

    Attributes:
        name: shown in the progress.
        config: see :func:`lab.baseline.config.load_config`.
        coherence: with the coherence term, or the baseline alone.
        number: added to the seed of the configuration.
        folder: checkpoints, logs and results go here.
        public: test the chosen checkpoint on `data.public_*` too.
    """

    name: str
    config: Mapping[str, Mapping[str, Any]]
    coherence: bool
    number: int
    folder: Path
    public: bool = False

    @property
    def record(self) -> Path:
        """File with the settings and, when the trial is finished, the scores."""
        return self.folder / "trial.json"

    def settings(self) -> dict[str, Any]:
        """What makes two runs the same run; paths and workers do not."""
        kept = ("audio_max_len", "fs", "net_subsample", "synth_folder", "test_folder")
        # Those of the table are the same setting as a list of them.
        classes = classes_of(self.config) or list(CLASSES)
        # First: a difference in the classes is named before that in their number.
        data = {**{key: self.config["data"][key] for key in kept}, "classes": classes}
        others = {name: dict(keys) for name, keys in self.config.items() if name != "data"}
        sections = {"data": data, **others}
        sections["training"].pop("num_workers")
        sections["net"]["nclass"] = len(classes)
        if not self.coherence:
            sections.pop("coherence")
        return {"coherence": self.coherence, "number": self.number, "config": sections}


class TrialFailed(InputError):
    """A trial met input that it cannot use, or diverged; what the others gave is kept."""


def read_record(trial: Trial) -> dict[str, Any]:
    """What is known of a trial: empty for a new one, with `scores` for a finished one.

    Raises:
        InputError: the folder holds a run with other settings or other training data.
    """
    try:
        record = json.loads(trial.record.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{trial.record} cannot be read ({error}); remove its folder or give another --log_dir"
        ) from None
    settings = json.loads(json.dumps(trial.settings()))
    before = _with_defaults(record.get("settings"))
    held = _classes_held(before)
    if held and classes_of(trial.config) is None:
        # The table that would tell them is no longer there, which is not held against the run.
        settings["config"]["data"]["classes"], settings["config"]["net"]["nclass"] = held, len(held)
    longer = _longer(before, settings)
    for key in longer:
        settings["config"]["training"][key] = before["config"]["training"][key]
    difference = first_difference(before, settings)
    if difference:
        raise InputError(
            f"{trial.folder} holds a run with other settings ({difference}); "
            "give another --log_dir, or remove that folder"
        )
    refuse_other_data(trial, record)
    reason = fixes_epochs(trial.config)
    if "n_epochs" in longer and reason:
        raise InputError(
            f"{trial.folder} holds a run of {settings['config']['training']['n_epochs']} epochs "
            f"that cannot be prolonged, as {reason}; give another --log_dir, or remove that folder"
        )
    # What its patience has ended would have ended in a longer run, too.
    ended = _stopped_early(trial, record)
    if ("early_stop_patience" if ended else "n_epochs") in longer:
        return {key: record[key] for key in record if key not in ("scores", "public")}
    return record


def _longer(before: Any, now: Mapping[str, Any]) -> list[str]:
    """What a run may get more of in the same folder: epochs, and patience."""
    try:
        training = before["config"]["training"]
        keys = ("n_epochs", "early_stop_patience")
        return [key for key in keys if now["config"]["training"][key] > training[key]]
    except (KeyError, TypeError):
        return []


def _stopped_early(trial: Trial, record: Mapping[str, Any]) -> bool:
    """Whether a finished run ended for want of patience; older records do not say it."""
    if "scores" not in record or "stopped_early" in record:
        return bool(record.get("stopped_early"))
    table = trial.folder / "epochs.tsv"
    epochs = len(table.read_text().splitlines()) - 1 if table.exists() else 0
    return epochs < record["settings"]["config"]["training"]["n_epochs"]


def refuse_other_data(trial: Trial, record: Mapping[str, Any]) -> None:
    """Raise where the training data of a record are not those of now.

    Records of before there were digests are taken as they are, and data that are no longer there
    are not held against them.

    Raises:
        InputError: a table of the training or the validation changed, or clips in number or size.
    """
    if _changed(trial, "training", record.get("data", {}).get("training")):
        raise InputError(
            f"{trial.folder} holds a run on other training data (a table changed since, or the "
            "names or sizes of the clips); give another --log_dir, or remove that folder"
        )


def _changed(trial: Trial, name: str, before: str | None) -> bool:
    now = set_digests(trial.config, public=name == "public")[name]
    return None not in (before, now) and before != now


def scores_of(trial: Trial, record: Mapping[str, Any]) -> dict[str, float] | None:
    """Test scores in a record by their logged names, None while some are missing or outdated."""
    if "scores" not in record or _changed(trial, "test", record.get("data", {}).get("test")):
        return None
    if not trial.public:
        return record["scores"]
    public = record.get("public", {})
    if public.get("folder") != trial.config["data"]["public_folder"]:
        return None
    if _changed(trial, "public", public.get("data")):
        return None
    return {**record["scores"], **public["scores"]}


def _with_defaults(settings: Any) -> Any:
    """Settings of a record with the keys that came later, at the values that change nothing."""
    if not isinstance(settings, dict) or not isinstance(settings.get("config"), dict):
        return settings
    config = {}
    for name, keys in settings["config"].items():
        known = {key: default for key, (_, default) in SCHEMA.get(name, {}).items()}
        if name == "data":
            # Its paths are no settings; before there was a choice of classes they were DESED's.
            known = {"classes": list(CLASSES)}
        config[name] = {**known, **keys}
    config.get("training", {}).pop("num_workers", None)
    return {**settings, "config": json.loads(json.dumps(config))}


def _classes_held(settings: Any) -> list[str] | None:
    """Classes in the settings of a record, None where it is none."""
    try:
        return settings["config"]["data"]["classes"]
    except (KeyError, TypeError):
        return None


def first_difference(before: Any, now: Any, name: str = "") -> str:
    """Say in what nested settings differ first; empty where they do not.

    Example:
        >>> first_difference({"opt": {"lr": 0.1}}, {"opt": {"lr": 0.2}})
        'opt.lr was 0.1, is 0.2'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            found = first_difference(before.get(key), now.get(key), f"{name}.{key}".strip("."))
            if found:
                return found
        return ""
    return "" if before == now else f"{name.replace('config.', '', 1)} was {before!r}, is {now!r}"


@resumable()
def run_trials(
    trials: Sequence[Trial],
    *,
    gpus: str | None = None,
    progress: bool = True,
    fast_dev_run: bool = False,
    verify_psds: bool = False,
    storage: str | None = None,
    study: str = "trials",
) -> list[dict[str, float]]:
    """Run trials, as many at a time as there are cores (or GPUs), and return their scores.

    A finished trial is not run again, an interrupted one goes on from its last checkpoint, and so
    does one that gets more epochs than it had, unless a schedule depends on their number. When
    one fails the others are finished all the same; where all processes train one trial after
    another, the first that fails ends it. A finished trial whose test set changed is tested
    again.

    SIGTERM ends it, and its trials, within a batch. They go on from the end of their last epoch.

    Args:
        trials: with a folder each.
        gpus: the official flag; several GPUs take a trial each. Under torchrun or srun, or with
            `training.backend` ddp, all processes train one trial after another instead.
        progress: show progress bars on a terminal, lines elsewhere.
        fast_dev_run: three epochs of two batches.
        verify_psds: hold the PSDS of each test against psds_eval too, which takes minutes.
        storage: URL of a database that Optuna knows, by which all that call this with the same
            trials, on any machine, share them; see :func:`lab.runs.shared.run_shared`.
        study: its name there.

    Returns:
        Test scores by their logged names (those on the public set begin with `public/` instead of
        `test/`), in the order of the trials; nothing while others that share them still train.

    Raises:
        InputError: a folder holds another run or one on other data, or the storage cannot be used.
        TrialFailed: an InputError, too; a trial met input that it cannot use, or it diverged.
        Stopped: the process of a trial was told to stop.
        RuntimeError: a trial failed otherwise.
    """
    options = {"fast_dev_run": fast_dev_run, "verify_psds": verify_psds}
    if storage is not None:
        # Here, for Optuna is needed for this alone.
        from lab.runs.shared import run_shared

        return run_shared(trials, storage, study, gpus=gpus, progress=progress, options=options)
    digest.cache_clear()
    records = [read_record(trial) for trial in trials]
    waiting = [
        index
        for index, (trial, record) in enumerate(zip(trials, records))
        if scores_of(trial, record) is None
    ]
    for trial, record in zip(trials, records):
        before = record.get("settings")
        if "n_epochs" in _longer(before, trial.settings()) and "scores" in record:
            print(
                f"{trial.name}: it ended for want of training.early_stop_patience, more epochs "
                "change nothing",
                file=sys.stderr,
            )
    if started_together() != (1, 1) or trials[0].config["training"]["backend"] == "ddp":
        return _run_together(trials, gpus, progress, options)
    places, threads = places_for(trials, gpus)
    messages: Any = CONTEXT.Queue()
    running: dict[int, Any] = {}
    failures: dict[int, tuple[str, str]] = {}
    display = Display(trials, progress)
    # Without it a terminated parent would leave its trials running.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        while waiting or running:
            while waiting and places:
                index, place = waiting.pop(0), places.pop(0)
                process = start(_work, index, trials[index], place, threads, options, messages)
                running[index] = process, place
            try:
                index, kind, content = messages.get(timeout=0.5)
                if kind == "progress":
                    display.show(index, *content)
                else:
                    failures[index] = (kind, content)
            except queue.Empty:
                pass
            for index, (process, place) in list(running.items()):
                if process.exitcode is not None and messages.empty():
                    process.join()
                    places.append(place)
                    del running[index]
                    if process.exitcode in (RESUME_ME, -signal.SIGTERM):
                        failures[index] = ("stopped", "was told to stop")
                    elif process.exitcode and index not in failures:
                        failures[index] = ("died", f"ended with exit code {process.exitcode}")
    finally:
        end([process for process, _ in running.values()])
        display.close()
        signal.signal(signal.SIGTERM, before)
    for index, (kind, content) in failures.items():
        if kind == "stopped":
            raise Stopped(f"{trials[index].name} {content}")
        message = f"{trials[index].name}: {content}"
        raise RuntimeError(message) if kind == "died" else TrialFailed(message)
    return [scores_of(trial, read_record(trial)) or {} for trial in trials]


def places_for(trials: Sequence[Trial], gpus: str | None) -> tuple[list[str], int]:
    """GPUs or cores for trials side by side, and the threads that each trial has.

    From all trials, not from those that are left: the number of threads changes roundings, and a
    resumed run has to end as one that was not interrupted.
    """
    accelerator, devices = choose_devices(gpus)
    places = [str(device) for device in devices] if isinstance(devices, list) else ["cpu"] * cores()
    places = places[: len(trials)]
    return places, max(cores() // len(places), 1) if accelerator == "cpu" else 1


def _run_together(
    trials: Sequence[Trial], gpus: str | None, progress: bool, options: Mapping[str, bool]
) -> list[dict[str, float]]:
    """Run trials one after another, each in all processes of the training; this is one of them."""
    torch.set_num_threads(cores())
    display = Display(trials, progress and own_rank() == 0)
    scores = []
    try:
        for index, trial in enumerate(trials):
            report = functools.partial(display.show, index)
            scores.append(run_trial(trial, gpus, report=report, **options))
    except (InputError, FloatingPointError) as error:
        raise TrialFailed(f"{trial.name}: {error}") from None
    finally:
        display.close()
    return scores


def _work(
    index: int,
    trial: Trial,
    place: str,
    threads: int,
    options: Mapping[str, bool],
    messages: Any,
) -> None:
    signal.signal(signal.SIGTERM, leave)  # Lightning's way ends with exit code 0
    torch.set_num_threads(threads)

    def report(*content: Any) -> None:
        leave_with_parent()
        messages.put((index, "progress", content))

    try:
        run_trial(trial, place, report=report, **options)
    except InputError as error:
        messages.put((index, "input", str(error)))
        raise SystemExit(2) from None
    except FloatingPointError as error:
        messages.put((index, "diverged", str(error)))
        raise SystemExit(1) from None


def run_trial(
    trial: Trial,
    gpus: str | None = None,
    *,
    fast_dev_run: bool = False,
    verify_psds: bool = False,
    report: Any = None,
) -> dict[str, float]:
    """Train, or go on training, then test the best checkpoint, in this process.

    Writes into the trial's folder, beside what the trainer writes: `trial.json` and `epochs.tsv`
    (means of the epoch's losses and of the coherence monitor, and the validation scores).

    Args:
        trial: what to run.
        gpus: the official flag.
        fast_dev_run: three epochs of two batches.
        verify_psds: see :func:`run_trials`.
        report: called with (epochs done, epochs in all, text) during the training.

    Returns:
        Test scores by their logged names.
    """
    digest.cache_clear()
    record = read_record(trial)
    found = scores_of(trial, record)
    if found is not None:
        return found
    data = set_digests(trial.config)
    if own_rank() == 0:
        remove_left_over(trial.folder)
    if "scores" not in record:
        last = trial.folder / "last.ckpt"
        experiment = build(
            trial.config,
            coherence=trial.coherence,
            log_dir=trial.folder,
            trial=trial.number,
            gpus=gpus,
            resume=last if last.exists() else None,
            fast_dev_run=fast_dev_run,
            verify_psds=verify_psds,
            progress=False,
        )
        write_record(trial, {"data": data})
        # First, so that no checkpoint is ahead of the table.
        table = EpochTable(trial.folder / "epochs.tsv", report)
        experiment.trainer.callbacks.insert(0, table)  # type: ignore[attr-defined]
        experiment.fit()
        record = {
            "scores": experiment.test(),
            "checkpoint": experiment.best.name,
            "stopped_early": experiment.stopped_early,
            "data": data,
            "processes": experiment.trainer.world_size,
            "processor": processor(experiment.trainer.strategy.root_device),
        }
        write_record(trial, record)

    def test_again(place: Mapping[str, Any], folder: Path) -> dict[str, float]:
        experiment = build(
            {**trial.config, "data": {**trial.config["data"], **place}},
            coherence=False,
            log_dir=folder,
            gpus=gpus,
            train=False,
            fast_dev_run=fast_dev_run,
            verify_psds=verify_psds,
            progress=False,
        )
        return experiment.test(trial.folder / record["checkpoint"])

    def say_changed(name: str) -> None:
        if own_rank() == 0:
            print(
                f"{trial.name}: the {name} set changed since it was tested; "
                f"{record['checkpoint']} is tested again",
                file=sys.stderr,
            )

    if _changed(trial, "test", record.get("data", {}).get("test")):
        say_changed("test")
        record["scores"] = test_again({}, trial.folder)
        record["data"] = {**record["data"], "test": data["test"]}
        write_record(trial, record)
    if trial.public and scores_of(trial, record) is None:
        if _changed(trial, "public", record.get("public", {}).get("data")):
            say_changed("public")
        paths = trial.config["data"]
        place = {f"test_{part}": paths[f"public_{part}"] for part in ("folder", "tsv", "dur")}
        scores = test_again(place, trial.folder / "public")
        public = {name.replace("test/", "public/"): value for name, value in scores.items()}
        public.pop("hp_metric")
        record["public"] = {
            "folder": paths["public_folder"],
            "data": set_digests(trial.config, public=True)["public"],
            "scores": public,
        }
        write_record(trial, record)
    return scores_of(trial, record) or {}


@rank_zero_only
def write_record(trial: Trial, more: Mapping[str, Any]) -> None:
    """Write the settings of a trial and whatever else is known of it; rank zero does."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    content = {"settings": trial.settings(), "torch": torch.__version__, **more}
    write_whole(trial.record, json.dumps(content, indent=2) + "\n")


class Display:
    """Bars on a terminal; elsewhere a line whenever another tenth of a trial is over.

    Both tell the time that is left, as far as what this command has trained allows to say.

    Args:
        trials: by whose names the progress is shown.
        progress: show it at all.
        bars: use them on a terminal.
    """

    def __init__(self, trials: Sequence[Trial], progress: bool, *, bars: bool = True) -> None:
        self.names = [trial.name for trial in trials]
        self.progress = progress
        self.on_terminal = bars and sys.stderr.isatty()
        self.bars: dict[int, tqdm] = {}
        self.tenths: dict[int, int] = {}
        self.starts: dict[int, tuple[float, float]] = {}

    def show(self, index: int, done: float, total: float, text: str) -> None:
        """Show how many epochs of a trial are done."""
        if not self.progress:
            return
        if self.on_terminal:
            if index not in self.bars:
                self.bars[index] = tqdm(
                    total=total,
                    desc=self.names[index],
                    initial=done,
                    bar_format="{desc}: {percentage:3.0f}%|{bar}| epoch {n:.1f}/{total} "
                    "[{elapsed}<{remaining}] {postfix}",
                )
            bar = self.bars[index]
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)
            return
        first, start = self.starts.setdefault(index, (done, time.monotonic()))
        if int(10 * done / total) > self.tenths.get(index, 0):
            self.tenths[index] = int(10 * done / total)
            if first < done < total:
                left = (time.monotonic() - start) * (total - done) / (done - first)
                text += f", {tqdm.format_interval(left)} left"
            print(f"{self.names[index]}: epoch {done:g} of {total}, {text}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self.bars.values():
            bar.close()
