"""How long does loading an epoch take from wav files, and from packed clips?

python benchmarks/loading.py [--batches 5] [--workers 0] [--device cpu] [--json]

Both give the same batches [12, 12, 24] of ten-second clips, by the training's sampler, in turns, in
one process; what is read lies in the operating system's cache. `copy` is the least that it could
take: the same samples in order, from 16 bits to float, at once. Making and opening the store, once
a run, are timed apart.
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

from lab.baseline.config import load_config
from lab.data.datasets import (
    ConcatDatasetBatchSampler,
    StronglyAnnotatedSet,
    UnlabeledSet,
    WeakSet,
)
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.data.loading import DeviceBatches, pack_sets
from lab.devices import keep_memory
from lab.errors import InputError, command

BATCH = [12, 12, 24]


def write_clips(folder: Path, counts: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write noise as clips of ten seconds; return the strong and the weak table."""
    rng = np.random.default_rng(0)
    for name, count in zip(("strong", "weak", "unlabelled"), counts):
        (folder / name).mkdir()
        for clip in range(count):
            sound = rng.integers(-3000, 3000, 160000).astype(np.int16)
            soundfile.write(folder / name / f"{clip}.wav", sound, 16000)
    strong = [
        (f"{c}.wav", event, event + 1.5, CLASSES[(c + event) % 10])
        for c in range(counts[0])
        for event in range(c % 7)
    ]
    weak = [(f"{c}.wav", CLASSES[c % 10]) for c in range(counts[1])]
    silent = [(f"{c}.wav", None, None, None) for c in range(0, counts[0], 7)]
    return (
        pd.DataFrame(strong + silent, columns=["filename", "onset", "offset", "event_label"]),
        pd.DataFrame(weak, columns=["filename", "event_labels"]),
    )


def make_sets(folder: Path, tables: Any, encoder: Any) -> ConcatDataset:
    """The three sets of a training."""
    return ConcatDataset(
        [
            StronglyAnnotatedSet(folder / "strong", tables[0], encoder),
            WeakSet(folder / "weak", tables[1], encoder),
            UnlabeledSet(folder / "unlabelled", encoder),
        ]
    )


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a function takes."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=5, help="of 48 clips in an epoch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="where the batches go, such as cuda")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    for name in ("batches", "repeats", "threads"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} is {getattr(arguments, name)}; give at least 1")
    torch.set_num_threads(arguments.threads)
    keep_memory()
    device = torch.device(arguments.device)
    counts = [arguments.batches * size for size in BATCH]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sed.yaml").write_text("{}")
        encoder = make_encoder(load_config(folder / "sed.yaml"))
        tables = write_clips(folder, counts)
        wav, packed = (make_sets(folder, tables, encoder) for _ in range(2))
        making = timed(lambda: pack_sets(packed.datasets))
        opening = timed(lambda: pack_sets(packed.datasets))
        sampler = ConcatDatasetBatchSampler(counts, BATCH)
        slow = DataLoader(wav, batch_sampler=sampler, num_workers=arguments.workers)
        fast = DeviceBatches(packed, device, batch_sampler=sampler)
        samples = torch.cat([clips.packed[0][0].on(device) for clips in packed.datasets])

        def from_wav() -> None:
            for batch in slow:
                [part.to(device) for part in batch]

        def from_store() -> None:
            for _ in fast:
                pass

        contenders = {
            "wav": from_wav,
            "packed": from_store,
            "copy": lambda: samples.float().div_(32768),
        }
        times: dict[str, list[float]] = {key: [] for key in contenders}
        for repeat in range(arguments.repeats + 1):
            sampler.set_epoch(repeat)
            for key, epoch in contenders.items():
                seconds = timed(epoch)
                if repeat:  # the first epoch warms up
                    times[key].append(seconds)
    clips = sum(counts)
    medians = {key: statistics.median(values) / clips * 1e3 for key, values in times.items()}
    result = {
        "clips": clips,
        "workers": arguments.workers,
        "threads": arguments.threads,
        "device": arguments.device,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "milliseconds_a_clip": {key: round(value, 3) for key, value in medians.items()},
        "speedup": round(medians["wav"] / medians["packed"], 1),
        "making_milliseconds_a_clip": round(making / clips * 1e3, 3),
        "opening_milliseconds_a_clip": round(opening / clips * 1e3, 3),
        "seconds": {key: [round(value, 4) for value in v] for key, v in times.items()},
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        each = result["milliseconds_a_clip"]
        print(
            f"loading a clip: {each['wav']} ms from wav, {each['packed']} ms packed "
            f"({result['speedup']} times as fast), {each['copy']} ms the copy alone; once a run "
            f"{result['making_milliseconds_a_clip']} ms to make the store, then "
            f"{result['opening_milliseconds_a_clip']} ms to open it"
        )


if __name__ == "__main__":
    main()
