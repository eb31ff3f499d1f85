"""A worker that shares trials through a study, with a stand-in for the training."""

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from lab.runs import study
from lab.runs.trials import Trial

CONFIG = {
    "training": {"seed": 42, "teacher": False, "batch_size": [1, 0, 0], "select_on": None}
    | {"num_workers": 0},
    "data": {"audio_max_len": 1, "fs": 16000, "net_subsample": 2, "classes": ["Dog"]},
    "net": {"nclass": 1},
    "scaler": {"savepath": None},
    "soundscapes": {},
}
EPOCHS = 4


def trials_of(folder, settings=("baseline", "steps"), seeds=3, **changes):
    """Trials in the folder of a machine."""
    config = {name: {**keys, **changes.get(name, {})} for name, keys in CONFIG.items()}
    config["coherence"] = {"alpha1": 0.0}
    return [
        Trial(setting, config, True, number, Path(folder) / setting / f"trial_{number}")
        for number in range(seeds)
        for setting in settings
    ]


class StandIn:
    """A pool whose trainings leave their epochs in the trial's folder and a line each in a log."""

    def __init__(self, log, seconds=0.0, size=2):
        self.log, self.seconds, self.size = Path(log), seconds, size
        self.device = torch.device("cpu")
        self.ended = threading.Event()

    def train(self, trials, keep):
        for trial in trials:
            checkpoint = trial.folder / "epoch"
            trial.folder.mkdir(parents=True, exist_ok=True)
            done = int(checkpoint.read_text()) if checkpoint.exists() else 0
            for epoch in range(done, EPOCHS):
                time.sleep(self.seconds)
                checkpoint.write_text(str(epoch + 1))
                with open(self.log, "a") as file:
                    file.write(json.dumps([os.getpid(), trial.name, epoch]) + "\n")
            scores = {"test/student/event_f1_macro": trial.seed / 100}
            keep(trial, {"scores": scores, "processor": study.processor(self.device)})

    def close(self):
        self.ended.set()


def read_log(log):
    """Epochs that were trained: process, trial and number of each."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    return [
        SimpleNamespace(**dict(zip(("process", "trial", "epoch"), json.loads(x)))) for x in lines
    ]


def work(storage, folder, log, seconds=0.2, size=2):
    """Share the trials until all are finished; the patience of the study is that of a test."""
    study.INTERVAL, study.GRACE, study.WAIT = 1, 3, 0.2
    records = study.share(trials_of(folder), StandIn(log, seconds, size), storage, "study", False)
    assert [one["scores"]["test/student/event_f1_macro"] for one in records] == [
        trial.seed / 100 for trial in trials_of(folder)
    ]
