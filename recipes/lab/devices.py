"""Which cores and GPUs there are, and which processes share them."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from lab.errors import InputError

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """Number of CPU cores that this process may use; those of torchrun share the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(count // started_together()[0], 1) if "LOCAL_WORLD_SIZE" in os.environ else count


def choose_devices(gpus: str | None) -> tuple[str, Union[int, list[int]]]:
    """Read the official `--gpus` flag into Lightning's accelerator and devices.

    Raises:
        InputError: it is no list of numbers, or there is no such GPU.

    Example:
        >>> choose_devices("cpu")
        ('cpu', 1)
    """
    import torch  # not at the top: the workers that count cores start without it

    count = torch.cuda.device_count()
    if gpus == "cpu" or (gpus in (None, "0") and not count):
        return "cpu", 1
    if gpus is None:
        return "gpu", [0]
    try:
        indices = [int(part) for part in gpus.split(",")]
    except ValueError:
        raise InputError(f"--gpus is {gpus!r}; give indices such as 0 or 0,1, -1, or cpu") from None
    if indices == [-1]:
        indices = list(range(count))
    if not indices or not all(0 <= index < count for index in indices):
        raise InputError(f"--gpus is {gpus!r} and there are {count} GPUs here; give cpu or fewer")
    return "gpu", indices


class Processes(NamedTuple):
    """The processes that train one model."""

    accelerator: str  # "cpu" or "gpu"
    devices: Union[int, list[int]]  # processes on each machine; for GPUs their indices
    machines: int = 1

    @property
    def total(self) -> int:
        """How many processes there are on all machines."""
        here = self.devices if isinstance(self.devices, int) else len(self.devices)
        return here * self.machines

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return own_rank() if self.total > 1 else 0


def processor(device: torch.device) -> str:
    """Name what a device computes with, as another one rounds otherwise.

    The GPU's name, or the vector instructions that torch uses, such as "AVX512".
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def own_rank() -> int:
    """Which of the processes of one training this is, from 0, as its launcher says."""
    # Not at the top: who only detects does not load the training stack.
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return rank_zero_only.rank  # type: ignore[attr-defined]


def started_together() -> tuple[int, int]:
    """Processes a machine, and machines, of the torchrun or srun that started this process.

    `(1, 1)` without one of them.
    """
    if "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    machines = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) // machines, machines


def choose_processes(gpus: str | None, backend: str | None) -> Processes:
    """Choose the processes that train one model, and their devices.

    Those that torchrun or srun started; else one, or with `training.backend` "ddp" one a GPU.

    Raises:
        InputError: there are not as many GPUs as processes, or several without "ddp".
    """
    accelerator, devices = choose_devices(gpus)
    here, machines = started_together()
    if here * machines > 1 and accelerator == "cpu":
        return Processes("cpu", here, machines)
    if here * machines > 1:
        indices: Any = choose_devices("-1")[1] if gpus is None else devices
        if len(indices) < here or (gpus is not None and len(indices) > here):
            raise InputError(
                f"{here} processes were started on this machine for {len(indices)} GPUs; start one "
                "for each GPU, or give --gpus cpu"
            )
        return Processes("gpu", indices[:here], machines)
    if isinstance(devices, list) and len(devices) > 1 and backend != "ddp":
        raise InputError(
            f"--gpus is {gpus!r}; one training runs on one GPU, give one index, or set "
            "training.backend to ddp"
        )
    return Processes(accelerator, devices)


def keep_memory(keep: bool = True) -> None:
    """Let the C library keep freed memory for the next allocation, where it is glibc.

    By default it hands each large block back to the system, and a training step on the CPU spends
    much of its time on having the same pages cleared again. `keep=False` restores the default.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(-4, 0 if keep else 65536)  # M_MMAP_MAX of malloc.h
    mallopt(-1, -1 if keep else 128 * 1024)  # M_TRIM_THRESHOLD: never
