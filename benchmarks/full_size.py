"""What do a step and a trial of the paper's Table 1 cost, in full size?

python benchmarks/full_size.py [--conf_file FILE] [--steps 10000] [--repeats 5] [--gpus 0] [--json]

The student alone, on noise in memory: what is timed is features, network, loss, gradients and
optimizer. Operations are counted by torch (products alone, as is usual: two a multiplication and
addition); bytes are what every operation reads and writes, which fused kernels undercut. On the
CPU the time is of one core; on a GPU, of the wall.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from coherence_overhead import Step, seconds_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.baseline.config import load_config
from lab.baseline.crnn import CRNN
from lab.baseline.experiment import make_scheduler
from lab.baseline.trainer import MeanTeacher
from lab.data.labels import make_encoder
from lab.devices import choose_devices, keep_memory
from lab.errors import command

CONF_FILE = Path(__file__).parents[1] / "recipes" / "confs" / "table1.yaml"


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of all tensors that go into an operation or come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # A view moves nothing.
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def make_step(config: dict, device: torch.device, dtype: torch.dtype) -> Step:
    """A training step of the student on a batch of noise."""
    student = CRNN(**config["net"])
    optimizer = torch.optim.Adam(student.parameters(), config["opt"]["lr"], fused=True)
    encoder = make_encoder(config)
    module: Any = MeanTeacher(
        config,
        encoder,
        student,
        opt=optimizer,
        scheduler={"scheduler": make_scheduler(config, optimizer, 1)},
    )
    module.to(device).train()
    module.log = lambda *args, **kwargs: None
    clips = sum(config["training"]["batch_size"])
    samples = round(config["data"]["audio_max_len"] * config["data"]["fs"])
    audio = 0.1 * torch.randn(clips, samples, device=device)
    labels = torch.zeros(clips, len(encoder.labels), encoder.n_frames, device=device)
    labels[:, 0, : encoder.n_frames // 2] = 1
    module.scaler.set_statistics(torch.zeros(1, device=device), torch.ones(1, device=device))

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = module.training_step([audio, labels.clone()], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def cost(config: dict, device: torch.device, dtype: torch.dtype, repeats: int) -> dict:
    """Time, operations and bytes of a step."""
    torch.manual_seed(0)
    step = make_step(config, device, dtype)
    step()
    seconds = [seconds_of(step, device) for _ in range(repeats)]
    with FlopCounterMode(display=False) as flops, ByteCounter() as moved:
        step()
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "seconds": statistics.median(seconds),
        "gflop": flops.get_total_flops() / 1e9,
        "gigabytes": moved.bytes / 1e9,
        "peak_mib": peak,
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf_file", default=CONF_FILE)
    parser.add_argument("--steps", type=int, default=10000, help="of a trial")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gpus", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    accelerator, devices = choose_devices(args.gpus)
    device = torch.device("cpu" if accelerator == "cpu" else f"cuda:{devices[0]}")
    torch.set_num_threads(1)
    keep_memory(True)
    config = load_config(args.conf_file, {"training.num_workers": 0})
    name = platform.machine() if device.type == "cpu" else torch.cuda.get_device_name(device)
    result: dict = {"device": name, "torch": torch.__version__, "steps": args.steps}
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = cost(config, device, dtype, args.repeats)
        found["gflop_a_second"] = found["gflop"] / found["seconds"]
        found["trial_hours"] = args.steps * found["seconds"] / 3600
        result[kind] = {key: round(value, 3) for key, value in found.items()}
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for kind in ("fp32", "bf16"):
        found = result[kind]
        print(
            f"{kind}: {found['seconds']} s a step, {found['gflop']} GFLOP, "
            f"{found['gigabytes']} GB; {args.steps} steps {found['trial_hours']} h"
        )


if __name__ == "__main__":
    main()
