"""What does the coherence term cost: a training step with and without it, and inference?

python benchmarks/coherence_overhead.py [--batch 12 12 24] [--repeats 5] [--conf_file FILE] [--json]

One network, one batch, one optimizer. The two steps alternate, and which comes first alternates
too; the medians are compared, on the CPU of core time, not wall time. Audio is noise in memory:
nothing is read from disk, so the term's share is the largest it can be. The second table is the
term alone (forward and backward, from features) against batch, frames and dims, 4 and 16 times
those of the step.
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

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from dcase_coherence.settings import Settings
from lab.baseline.config import load_config
from lab.baseline.crnn import CRNN
from lab.baseline.experiment import CoherenceMeanTeacher, make_scheduler
from lab.baseline.trainer import MeanTeacher
from lab.data.desed import CLASSES
from lab.data.labels import make_encoder
from lab.devices import choose_devices, keep_memory
from lab.errors import command

Step = Callable[[], None]


def make_steps(config: dict, device: torch.device) -> tuple[dict[str, Step], Any]:
    """Steps with and without the term, of one module, and the module."""
    batch = config["training"]["batch_size"]
    student = CRNN(**config["net"])
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    scheduler = make_scheduler(config, optimizer, 1)
    encoder = make_encoder(config)
    module: Any = CoherenceMeanTeacher(
        config, encoder, student, opt=optimizer, scheduler={"scheduler": scheduler}
    )
    module.to(device).train()
    module.log = lambda *args, **kwargs: None
    samples = round(config["data"]["audio_max_len"] * config["data"]["fs"])
    audio = 0.1 * torch.randn(sum(batch), samples, device=device)
    labels = torch.zeros(sum(batch), len(CLASSES), encoder.n_frames, device=device)
    for clip in range(batch[0]):
        # Two events a clip: four boundaries.
        labels[clip, clip % 10, encoder.n_frames // 8 : encoder.n_frames // 2] = 1
        labels[clip, (clip + 3) % 10, encoder.n_frames // 3 : encoder.n_frames // 4 * 3] = 1
    labels[batch[0] : batch[0] + batch[1], 0, 0] = 1

    def step_of(training_step: Callable[[Any, Any, int], Tensor]) -> Step:
        def step() -> None:
            # Without the tap a step is the baseline's to the last operation.
            loss = training_step(module, [audio, labels.clone()], 0)
            module.on_before_zero_grad(optimizer)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

        return step

    plain = step_of(MeanTeacher.training_step)

    def without() -> None:
        for term in module.coherence:
            term.tap.remove()
        plain()

    return {"without": without, "with": step_of(CoherenceMeanTeacher.training_step)}, module


def seconds_of(step: Step, device: torch.device) -> float:
    """Wall time on a GPU; on the CPU time of cores, which other work does not add to."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_of(step: Step, device: torch.device) -> int:
    """Most memory that a step holds at a time, in bytes, beyond what is held before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        step()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def alternate(steps: dict[str, Step], repeats: int, device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for repeat in range(repeats):
        names = list(steps)[:: 1 if repeat % 2 else -1]
        for name in names:
            times[name].append(seconds_of(steps[name], device))
    return times


def term_alone(batch: int, frames: int, dims: int, config: dict, device: torch.device) -> float:
    """Milliseconds of the term's forward and backward, monitor included."""
    module = torch.nn.Identity()
    section = {**config["coherence"], "path": ""}
    regularizer, *_ = Settings(section).build(module)
    features = torch.randn(batch, frames, dims, device=device, requires_grad=True)
    labels = torch.zeros(batch, frames, len(CLASSES), device=device)
    labels[:, frames // 3 : frames // 2, 0] = 1

    def step() -> None:
        module(features)
        regularizer(labels).backward()
        features.grad = None

    step()
    return 1000 * statistics.median(seconds_of(step, device) for _ in range(15))


def inference(config: dict, module: Any) -> dict[str, bool]:
    """Whether a network trained with the term runs as one that never saw it."""
    plain = CRNN(**config["net"])
    trained = module.sed_student
    for term in module.coherence:
        term.attach()
    same = list(plain.state_dict()) == list(trained.state_dict())
    plain.load_state_dict(trained.state_dict())
    fresh = plain.to(next(trained.parameters()).device).eval()
    features = torch.rand(2, config["feats"]["n_mels"], 64, device=next(fresh.parameters()).device)
    for term in module.coherence:
        term.tap.remove()

    def operations(network: torch.nn.Module) -> list[str]:
        with torch.no_grad(), torch.profiler.profile(acc_events=True) as profile:
            network(features)
        return [e.name() for e in profile.profiler.kineto_results.events()]

    return {
        "same_state_dict": same,
        "same_operations": operations(fresh) == operations(trained.eval()),
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs=3, default=[12, 12, 24], metavar="N")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpus", help="index or cpu (default: a GPU where there is one)")
    parser.add_argument("--conf_file", help="another network than the official one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    accelerator, devices = choose_devices(arguments.gpus)
    device = torch.device("cpu" if accelerator == "cpu" else f"cuda:{devices[0]}")  # type: ignore[index]
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        conf_file = arguments.conf_file
        if conf_file is None:
            # Nothing but the official values.
            conf_file = Path(folder, "sed.yaml")
            conf_file.write_text("{}")
        config = load_config(conf_file, {"training.batch_size": arguments.batch})
    steps, module = make_steps(config, device)
    times = alternate(steps, arguments.repeats, device)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peaks = {name: peak_of(step, device) for name, step in steps.items()}
    encoder = make_encoder(config)
    size = arguments.batch[0], encoder.n_frames, config["net"]["nb_filters"][-1]
    sizes = {"the step's": size}
    for index, name in enumerate(("batch", "frames", "dims")):
        for factor in (4, 16):
            sizes[f"{factor} x {name}"] = tuple(
                n * (factor if i == index else 1) for i, n in enumerate(size)
            )
    alone = {name: term_alone(*shape, config, device) for name, shape in sizes.items()}
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        if device.type == "cpu"
        else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "batch": arguments.batch,
        "seconds": {name: [round(v, 4) for v in values] for name, values in times.items()},
        "median_seconds": {name: round(value, 4) for name, value in medians.items()},
        "time_percent": round(100 * (medians["with"] / medians["without"] - 1), 2),
        # A difference of steps carries the noise of both; the term alone does not.
        "term_alone_percent": round(alone["the step's"] / medians["without"] / 10, 3),
        "peak_mib": {name: round(value / 2**20, 2) for name, value in peaks.items()},
        "peak_percent": round(100 * (peaks["with"] / peaks["without"] - 1), 3),
        "term_milliseconds": {
            name: {"batch, frames, dims": sizes[name], "ms": round(value, 3)}
            for name, value in alone.items()
        },
        "inference": inference(config, module),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"a step at {arguments.batch}: {medians['without']:.3f} s without the term, "
        f"{medians['with']:.3f} s with it ({result['time_percent']:+.2f} %); the term alone takes "
        f"{result['term_alone_percent']:.3f} % of a step"
    )
    print(
        f"peak memory: {result['peak_mib']['without']:.1f} MiB without, "
        f"{result['peak_mib']['with']:.1f} MiB with it ({result['peak_percent']:+.3f} %)"
    )
    print("the term alone, forward and backward, monitor included (batch, frames, dims):")
    for name, found in result["term_milliseconds"].items():
        print(f"{name:>12} {found['batch, frames, dims']!s:>18}: {found['ms']:8.3f} ms")
    for what, same in result["inference"].items():
        print(f"inference, {what.replace('_', ' ')}: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
