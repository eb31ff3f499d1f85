"""Where does the time of the main job's training go?

python benchmarks/main_job.py [--conf_file CONF] [--set SECTION.KEY=VALUE ...] [--json]

CPU seconds of one thread, so that what else runs on the machine counts little. First the parts of
a step, each repeated alone; then an epoch under Lightning with its logs and checkpoints, the
validation, and the test with its 50 operating points, as the trainer makes them. What the parts of
a step leave of Lightning's is its overhead.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import pytorch_lightning as pl
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.baseline.config import load_config, parse_overrides
from lab.baseline.experiment import Experiment, build
from lab.baseline.features import take_log
from lab.baseline.place import place_data
from lab.errors import command

CONF = Path(__file__).resolve().parents[1] / "recipes" / "confs" / "mini.yaml"


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of a call, on average, after two that are not counted."""
    call(), call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def parts_of_a_step(experiment: Experiment, repeats: int) -> dict[str, float]:
    """CPU seconds of what a training step is made of."""
    module = experiment.module.train()
    module.log = lambda *args, **kwargs: None  # type: ignore[assignment]
    student, teacher, optimizer = module.sed_student, module.sed_teacher, module.opt
    loader = module.train_dataloader()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    if module.scaler.needs_fit:
        module.scaler.fit(take_log(module.mels(batch[0])) for batch in loader)
    for _ in range(len(loader)):
        # What is kept in memory is there from the second epoch on.
        batch = next(batches)
    features = module.features(module.mels(batch[0]))
    z = student.cnn(features.transpose(1, 2).unsqueeze(1)).squeeze(3).transpose(1, 2).detach()

    def step(backward: bool) -> None:
        loss = module.training_step([batch[0], batch[1].clone(), *batch[2:]], 0)
        if backward:
            loss.backward()

    def listen() -> None:
        with torch.no_grad():
            teacher(features)

    times = {
        "loading": seconds(lambda: next(batches), repeats),
        "features": seconds(lambda: module.features(module.mels(batch[0])), repeats),
        "student, forward": seconds(lambda: student(features), repeats),
        "  of it recurrent": seconds(lambda: student.rnn(z), repeats),
        "student, forward and backward": seconds(
            lambda: sum(said.mean() for said in student(features)).backward(), repeats
        ),
        "  of it recurrent, both": seconds(lambda: student.rnn(z).mean().backward(), repeats),
    }
    if teacher is not None:
        times["teacher, forward"] = seconds(listen, repeats)
        times["moving average"] = seconds(
            lambda: module.update_ema(0.999, 9, student, teacher), repeats
        )
    times["optimizer"] = seconds(optimizer.step, repeats)
    times["training_step and backward"] = seconds(lambda: step(True), repeats)
    return times


class Clock(pl.Callback):
    """CPU seconds at which the trainer's phases begin and end."""

    def __init__(self) -> None:
        self.marks: dict[str, list[float]] = {}
        for moment in ("train_epoch_start", "validation_start", "validation_end"):
            setattr(self, f"on_{moment}", functools.partial(self._mark, moment))

    def _mark(self, moment: str, *_: Any) -> None:
        self.marks.setdefault(moment, []).append(time.process_time())


def phases(experiment: Experiment) -> dict[str, float]:
    """CPU seconds of a step under Lightning, a validation and the test."""
    clock = Clock()
    experiment.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    experiment.fit()
    start = time.process_time()
    experiment.test()
    tested = time.process_time() - start
    marks = clock.marks
    # The second of three epochs: nothing is validated.
    starts = marks["train_epoch_start"]
    steps = experiment.trainer.num_training_batches
    return {
        "a step under Lightning": (starts[2] - starts[1]) / float(steps),
        "a validation": marks["validation_end"][0] - marks["validation_start"][0],
        "the test": tested,
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf_file", default=CONF)
    parser.add_argument("--data", help="a data set in the official layout (default: generated)")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--coherence", action="store_true", help="with the term")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.conf_file, parse_overrides(arguments.set))
    place_data(config, arguments.data, Path("data", Path(arguments.conf_file).stem))
    config["training"].update(n_epochs=3, n_epochs_warmup=1, validation_interval=3)
    times = {}
    for measure in (lambda e: parts_of_a_step(e, arguments.repeats), phases):
        with tempfile.TemporaryDirectory() as folder:
            experiment = build(
                config, coherence=arguments.coherence, log_dir=folder, gpus="cpu", progress=False
            )
            times.update(measure(experiment))
    if arguments.json:
        print(json.dumps(times, indent=2))
    else:
        for name, value in times.items():
            print(f"{name:32}{1000 * value:10.1f} ms")


if __name__ == "__main__":
    main()
