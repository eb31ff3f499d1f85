"""Does anything grow in a long training: memory, open files, processes, threads?

python benchmarks/soak.py [--steps 400] [--workers 1] [--json]

A tiny network with the coherence term on generated clips, through the whole trainer: workers that
load the clips, validation, checkpoints and TensorBoard logs every epoch. After each epoch the
process is measured; what counts is the second half of the run against its first half, once the
first epochs have warmed up. Exit code 1 when something grows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.baseline.config import load_config
from lab.baseline.experiment import build
from lab.data.desed import official_layout
from lab.errors import InputError, command
from lab.soundscapes import generate

CLIPS = {"strong": 40, "weak": 10, "unlabelled": 10, "validation": 2, "test": 2}
STEPS_AN_EPOCH = 10
CONFIG = {
    "training.batch_size": [4, 1, 1],
    "training.batch_size_val": 2,
    "training.n_epochs_warmup": 1,
    "training.weak_split": 1.0,
    "training.early_stop_patience": 100000,
    "feats.n_mels": 16,
    "feats.n_window": 512,
    "feats.hop_length": 1024,
    "net.n_RNN_cell": 4,
    "net.n_layers_RNN": 1,
    "net.rnn_layers": None,
    "net.nb_filters": [4, 4],
    "net.kernel_size": [3, 3],
    "net.padding": [1, 1],
    "net.stride": [1, 1],
    "net.pooling": [[2, 4], [2, 4]],
    "scaler.savepath": None,
}
#: What may come and go: a share of the memory, and counts.
MEMORY_SLACK, COUNT_SLACK = 0.03, 1
WARM_UP = 5  # epochs


class Watch(pl.Callback):
    """Measures the process after each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at /proc: the standard library knows of the peak only."""
        own = Path("/proc/self")
        pages = int((own / "statm").read_text().split()[1])
        children = (own / "task" / str(os.getpid()) / "children").read_text().split()
        self.epochs.append(
            {
                "memory_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                "open_files": len(os.listdir(own / "fd")),
                "processes": len(children),
                "threads": threading.active_count(),
            }
        )


def growth(epochs: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Median of each quantity in the two halves after the warm-up, and whether it grew."""
    warm = epochs[WARM_UP:]
    found = {}
    for name in warm[0]:
        values = [epoch[name] for epoch in warm]
        before = statistics.median(values[: len(values) // 2])
        after = statistics.median(values[len(values) // 2 :])
        slack = MEMORY_SLACK * before if name == "memory_mib" else COUNT_SLACK
        found[name] = {
            "first_half": round(before, 1),
            "second_half": round(after, 1),
            "grew": after > before + slack,
        }
    return found


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1, help="at most one fewer than cores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    epochs = arguments.steps // STEPS_AN_EPOCH
    if epochs < WARM_UP + 4:
        least = (WARM_UP + 4) * STEPS_AN_EPOCH
        raise InputError(f"--steps is {arguments.steps}; give at least {least}")
    if not Path("/proc/self/statm").exists():
        raise InputError("this measures through /proc, which Linux alone has")
    torch.set_num_threads(1)
    watch = Watch()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        data = generate(Path(name, "data"), progress=False, processes=1, **CLIPS)
        Path(name, "sed.yaml").write_text("{}")
        settings = {"training.n_epochs": epochs, "training.num_workers": arguments.workers}
        config = load_config(Path(name, "sed.yaml"), {**CONFIG, **settings})
        config["data"].update(official_layout(data))
        experiment = build(
            config, coherence=True, log_dir=Path(name, "exp"), gpus="cpu", progress=False
        )
        experiment.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        experiment.fit()
        steps = experiment.trainer.global_step
        files = sum(1 for path in Path(name, "exp").rglob("*") if path.is_file())
    found = growth(watch.epochs)
    result = {
        "steps": steps,
        "epochs": len(watch.epochs),
        "seconds": round(time.monotonic() - start),
        "workers": config["training"]["num_workers"],
        "files_left": files,
        **found,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{steps} steps, {len(watch.epochs)} epochs in {result['seconds']} s")
        for quantity, values in found.items():
            verdict = "GREW" if values["grew"] else "flat"
            halves = f"{values['first_half']} -> {values['second_half']}"
            print(f"{quantity:>12}: {halves:20} {verdict}")
    return int(any(values["grew"] for values in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
