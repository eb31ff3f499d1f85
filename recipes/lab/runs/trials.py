"""One trial: a training from one seed with its tests, which goes on where it was interrupted."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lab.baseline.experiment import build
from lab.data.classes import classes_of
from lab.data.digests import digest, set_digests
from lab.devices import own_rank, processor
from lab.errors import InputError
from lab.evaluation.thresholds import Thresholds
from lab.files import remove_left_over, write_whole
from lab.runs.epochs import EpochTable
from lab.runs.results import SCORES_OF, first_difference


class Trial(NamedTuple):
    """One training run with its tests."""

    setting: str  # its name
    config: Mapping[str, Mapping[str, Any]]
    coherence: bool  # with the coherence term, or the baseline alone
    number: int  # added to the seed of the configuration
    folder: Path  # of checkpoints, logs and results
    public: bool = False  # test on `data.public_*` too

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.config["training"]["seed"] + self.number

    @property
    def name(self) -> str:
        """Shown in the progress."""
        return f"{self.setting}, seed {self.seed}"

    @property
    def record(self) -> Path:
        """File with the settings and, when the trial is finished, the scores."""
        return self.folder / "trial.json"

    def settings(self) -> dict[str, Any]:
        """What makes two runs the same run; paths and workers do not."""
        config = without_paths(self.config)
        if not self.coherence:
            config.pop("coherence")
        return {"coherence": self.coherence, "number": self.number, "config": config}


class TrialFailed(InputError):
    """A trial met input that it cannot use, or diverged; what the others gave is kept."""


def without_paths(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of a configuration, as plain data, without what differs between machines."""
    settings = {name: dict(keys) for name, keys in config.items()}
    classes = classes_of(config)
    kept = {key: settings["data"][key] for key in ("audio_max_len", "fs", "net_subsample")}
    settings["data"] = {**kept, "classes": classes}
    settings["net"]["nclass"] = len(classes or []) or settings["net"]["nclass"]
    settings["training"].pop("num_workers")
    settings["scaler"].pop("savepath")
    for key in [*settings["soundscapes"]]:
        if "soundbank" in key or key == "processes":
            del settings["soundscapes"][key]
    return json.loads(json.dumps(settings))


def read_record(trial: Trial) -> dict[str, Any]:
    """What is known of a trial: empty for a new one, with all scores for a finished one.

    Scores on a test set that is another one by now are left out.

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
    difference = first_difference(record["settings"], trial.settings())
    if difference:
        raise InputError(
            f"{trial.folder} holds a run with other settings "
            f"({difference.replace('config.', '', 1)}); give another --log_dir, or remove that "
            "folder"
        )
    before, now = record.get("data", {}), set_digests(trial.config, public=trial.public)
    other = {name for name in now if now[name] not in (before.get(name), None) and before.get(name)}
    if "training" in other:
        raise InputError(
            f"{trial.folder} holds a run on other training data (a table changed since, or the "
            "names or sizes of the clips); give another --log_dir, or remove that folder"
        )
    for name in other:
        record.pop(SCORES_OF[name], None)
    return record


def tests_of(trial: Trial) -> list[str]:
    """Names of the test sets of a trial."""
    return ["test", *["public"] * trial.public]


def run_trial(
    trial: Trial,
    gpus: str | None = None,
    *,
    fast_dev_run: bool = False,
    verify_psds: bool = False,
    report: Any = None,
) -> dict[str, Any]:
    """Train, or go on training, then test the best checkpoint, in this process.

    Writes into the trial's folder, beside what the trainer writes: `trial.json` and `epochs.tsv`
    (means of the epoch's losses and of the coherence monitor, and the validation scores). What is
    finished is not done again; a test set that has changed is tested again.

    Args:
        trial: what to run.
        gpus: the official flag.
        fast_dev_run: three epochs of two batches.
        verify_psds: hold the PSDS of each test against psds_eval too, which takes minutes.
        report: called with (epochs done, epochs in all, text) during the training.

    Returns:
        The record: `scores` on the test set and `public_scores` by their logged names,
        `validation` (the best of the epochs), `commit`, `processor`, `torch` and more.

    Raises:
        InputError: the folder holds another run, or a file cannot be used.
        FloatingPointError: the training diverged.
    """
    digest.cache_clear()
    record = read_record(trial)
    if all(SCORES_OF[name] in record for name in tests_of(trial)):
        return record
    if own_rank() == 0:
        remove_left_over(trial.folder)
    options: Any = {"gpus": gpus, "fast_dev_run": fast_dev_run, "verify_psds": verify_psds}
    if "validation" not in record:
        last = trial.folder / "last.ckpt"
        experiment = build(
            trial.config,
            coherence=trial.coherence,
            log_dir=trial.folder,
            trial=trial.number,
            resume=last if last.exists() else None,
            progress=False,
            **options,
        )
        record = {
            "settings": trial.settings(),
            "data": {"training": set_digests(trial.config)["training"]},
        }
        write_record(trial, record)
        # First, so that no checkpoint is ahead of the table.
        table = EpochTable(trial.folder / "epochs.tsv", report)
        experiment.trainer.callbacks.insert(0, table)  # type: ignore[attr-defined]
        checkpoint = experiment.fit()
        record.update(
            checkpoint=checkpoint.name,
            scores=experiment.test(),
            validation=experiment.validation,
            thresholds={
                name: chosen._asdict() for name, chosen in experiment.module.thresholds.items()
            },
            processes=experiment.trainer.world_size,
            **provenance(experiment.trainer.strategy.root_device),
        )
        record["data"]["test"] = set_digests(trial.config)["test"]
        write_record(trial, record)
    for name in tests_of(trial):
        if SCORES_OF[name] in record:
            continue
        data = dict(trial.config["data"])
        for part in ("folder", "tsv", "dur") if name == "public" else ():
            data[f"test_{part}"] = data[f"public_{part}"]
        experiment = build(
            {**trial.config, "data": data},
            coherence=False,
            log_dir=trial.folder if name == "test" else trial.folder / name,
            train=False,
            progress=False,
            **options,
        )
        experiment.module.thresholds = {
            model: Thresholds(**chosen) for model, chosen in record["thresholds"].items()
        }
        record[SCORES_OF[name]] = experiment.test(trial.folder / record["checkpoint"])
        record["data"][name] = set_digests(trial.config, public=trial.public)[name]
        write_record(trial, record)
    return record


@rank_zero_only
def write_record(trial: Trial, record: Mapping[str, Any]) -> None:
    """Write what is known of a trial; rank zero does."""
    write_whole(trial.record, json.dumps(record, indent=2) + "\n")


def provenance(device: torch.device) -> dict[str, str]:
    """Name what a trial is trained with: `commit` of the code, `processor` and `torch`."""
    return {"commit": commit(), "processor": processor(device), "torch": torch.__version__}


@functools.lru_cache(maxsize=None)
def commit() -> str:
    """Name the code: the commit of the clone, with `-dirty` where it was changed since.

    The version of the package where this is no clone.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return importlib.metadata.version("dcase-coherence")
    return done.stdout.strip()
