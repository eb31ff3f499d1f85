"""How long does a training step of the bundled baseline take beside the official one?

DESED_TASK=/path/to/checkout python benchmarks/training_step.py [--batch 12 12 24] [--json]

The checkout is of commit 63d8b3b. A step is everything: reading the clips from disk, features,
student, teacher, gradients, optimizer, moving average. Both contenders run alternately in one
process, on the same clips and with the same number of threads; the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pandas as pd
import soundfile
import torch
from torch.utils.data import ConcatDataset, DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from dcase_coherence.official import shims
from dcase_coherence.official.trainers import importable, load_baseline
from lab.baseline.config import load_config
from lab.baseline.crnn import CRNN
from lab.baseline.experiment import make_scheduler
from lab.baseline.trainer import MeanTeacher
from lab.data.datasets import (
    ConcatDatasetBatchSampler,
    StronglyAnnotatedSet,
    UnlabeledSet,
    WeakSet,
)
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.devices import keep_memory
from lab.errors import InputError, command

Step = Callable[[], float]


def write_clips(folder: Path, counts: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write noise as clips of ten seconds; return the strong and the weak table."""
    rng = np.random.default_rng(0)
    for name, count in zip(("strong", "weak", "unlabelled"), counts):
        (folder / name).mkdir()
        for clip in range(count):
            sound = 0.1 * rng.standard_normal(160000)
            soundfile.write(folder / name / f"{clip}.wav", sound, 16000, subtype="PCM_16")
    names = [f"{clip}.wav" for clip in range(max(counts))]
    strong = [(names[c], c % 7, c % 7 + 2.5, CLASSES[c % 10]) for c in range(counts[0])]
    weak = [(names[c], CLASSES[c % 10]) for c in range(counts[1])]
    return (
        pd.DataFrame(strong, columns=["filename", "onset", "offset", "event_label"]),
        pd.DataFrame(weak, columns=["filename", "event_labels"]),
    )


def run_steps(module: Any, data: Any, optimizer: Any, scheduler: Any, batch: list[int]) -> Step:
    """Drive a trainer by hand, in Lightning's order; return a function that makes one step."""
    module.log = lambda *args, **kwargs: None
    module.train()
    rows = [list(range(sum(batch)))]

    def step() -> float:
        start = time.perf_counter()
        (loaded,) = DataLoader(data, batch_sampler=rows)
        loss = module.training_step(loaded, 0)
        module.on_before_zero_grad(optimizer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return time.perf_counter() - start

    return step


def bundled(config: dict, folder: Path, tables: Any, batch: list[int]) -> Step:
    """The bundled baseline."""
    encoder = make_encoder(config)
    student = CRNN(**config["net"])
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    scheduler = make_scheduler(config, optimizer, 1)
    data = ConcatDataset(
        [
            StronglyAnnotatedSet(folder / "strong", tables[0], encoder),
            WeakSet(folder / "weak", tables[1], encoder),
            UnlabeledSet(folder / "unlabelled", encoder),
        ]
    )
    module = MeanTeacher(
        config,
        encoder,
        student,
        opt=optimizer,
        train_data=data,
        train_sampler=ConcatDatasetBatchSampler(batch, batch),
        scheduler={"scheduler": scheduler},
    )
    return run_steps(module, data, optimizer, scheduler, batch)


def official(checkout: str, config: dict, folder: Path, tables: Any, batch: list[int]) -> Step:
    """The official baseline, from its checkout."""
    trainer = load_baseline(checkout).official
    with importable(checkout):
        from desed_task.dataio import datasets
        from desed_task.nnet.CRNN import CRNN as OfficialCRNN
        from desed_task.utils.encoder import ManyHotEncoder
        from desed_task.utils.schedulers import ExponentialWarmup
    ours = make_encoder(config).state_dict()
    encoder = ManyHotEncoder(*ours.values())
    student = OfficialCRNN(**config["net"])
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    scheduler = ExponentialWarmup(optimizer, 1e-3, config["training"]["n_epochs_warmup"])
    data = ConcatDataset(
        [
            datasets.StronglyAnnotatedSet(folder / "strong", tables[0], encoder),
            datasets.WeakSet(folder / "weak", tables[1], encoder),
            datasets.UnlabeledSet(folder / "unlabelled", encoder),
        ]
    )
    module = trainer(
        config,
        encoder=encoder,
        sed_student=student,
        opt=optimizer,
        train_data=data,
        scheduler={"scheduler": scheduler},
    )
    return run_steps(module, data, optimizer, scheduler, batch)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs=3, default=[12, 12, 24], metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--conf_file", help="another network than the official one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    checkout = os.environ.get("DESED_TASK")
    if not checkout:
        raise InputError("set DESED_TASK to a checkout of DESED_task at commit 63d8b3b")
    torch.set_num_threads(arguments.threads)
    overrides = {"training.batch_size": arguments.batch, "training.num_workers": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.conf_file is None:
            # Nothing but the official values.
            (folder / "sed.yaml").write_text("{}")
        config = load_config(arguments.conf_file or folder / "sed.yaml", overrides)
        tables = write_clips(folder, arguments.batch)
        with shims.shims():
            contenders = {
                "official": official(checkout, config, folder, tables, arguments.batch),
                "bundled": bundled(config, folder, tables, arguments.batch),
            }
            times: dict[str, list[float]] = {key: [] for key in contenders}
            for _ in range(arguments.repeats):
                for key, step in contenders.items():
                    keep_memory(key == "bundled")
                    # The first step after the other contender warms up and is not counted.
                    step()
                    times[key].append(step())
    medians = {key: statistics.median(values) for key, values in times.items()}
    result = {
        "batch": arguments.batch,
        "threads": arguments.threads,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "official_seconds": round(medians["official"], 3),
        "bundled_seconds": round(medians["bundled"], 3),
        "speedup": round(medians["official"] / medians["bundled"], 2),
        "seconds": {key: [round(value, 3) for value in v] for key, v in times.items()},
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"official {result['official_seconds']} s, bundled {result['bundled_seconds']} s a "
            f"step at {arguments.batch}, {arguments.threads} threads: {result['speedup']} times"
        )


if __name__ == "__main__":
    main()
