"""Cores and GPUs, the processes that share them, and the memory that is kept."""

import ctypes
import os

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lab import devices
from lab.devices import (
    Processes,
    choose_devices,
    choose_processes,
    cores,
    keep_memory,
    own_rank,
    started_together,
)
from lab.errors import InputError

TORCHRUN = {"LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 6}
SRUN = {"SLURM_STEP_NUM_TASKS": 6, "SLURM_STEP_NUM_NODES": 3}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    def gpus(count, **environment):
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))

    return gpus


def affinity(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    affinity(monkeypatch, 3)
    assert cores() == 3


@pytest.mark.parametrize(("counted", "expected"), [(6, 6), (None, 1)])
def test_cores_of_a_system_without_affinity(monkeypatch, counted, expected):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert cores() == expected


@pytest.mark.parametrize(("found", "expected"), [(5, 2), (1, 1)])
def test_the_processes_of_torchrun_share_the_cores(monkeypatch, gpus, found, expected):
    affinity(monkeypatch, found)
    gpus(0, **TORCHRUN)
    assert cores() == expected


def test_srun_has_given_each_process_its_own_cores(monkeypatch, gpus):
    affinity(monkeypatch, 5)
    gpus(0, **SRUN)
    assert cores() == 5


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_processes_a_machine_and_machines(gpus, environment):
    assert started_together() == (1, 1)
    gpus(0, **environment)
    assert started_together() == (2, 3)


def test_choice_of_devices(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert choose_devices(None) == choose_devices("0") == choose_devices("cpu") == ("cpu", 1)
    with pytest.raises(InputError, match="0 GPUs"):
        choose_devices("0,1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_devices(None) == choose_devices("0") == ("gpu", [0])
    assert choose_devices("-1") == ("gpu", [0, 1])
    for flag in ("two", "2", ""):
        with pytest.raises(InputError, match="--gpus"):
            choose_devices(flag)


def test_processes_without_a_launcher(gpus):
    gpus(2)
    assert choose_processes(None, None) == Processes("gpu", [0])
    assert choose_processes("0,1", "ddp") == Processes("gpu", [0, 1])
    assert choose_processes("0,1", "ddp").total == 2
    with pytest.raises(InputError, match=r"runs on one GPU.*training\.backend to ddp"):
        choose_processes("0,1", None)


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_processes_of_torchrun_and_srun(gpus, environment):
    gpus(4, **environment)
    assert choose_processes(None, None) == Processes("gpu", [0, 1], 3)
    assert choose_processes("2,3", None) == Processes("gpu", [2, 3], 3)
    assert choose_processes("cpu", None) == Processes("cpu", 2, 3)
    assert choose_processes("cpu", None).total == 6
    with pytest.raises(InputError, match="2 processes were started on this machine for 1 GPUs"):
        choose_processes("0", None)
    gpus(1)
    with pytest.raises(InputError, match="start one for each GPU"):
        choose_processes(None, None)


def test_rank_is_the_launchers_and_0_for_one_process(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 2)
    assert own_rank() == 2
    assert Processes("cpu", 2, 3).rank == Processes("gpu", [0], 2).rank == 2
    # One training of several that torchrun started side by side is alone.
    assert Processes("cpu", 1).rank == Processes("gpu", [1]).rank == 0


class MallInfo(ctypes.Structure):
    """What glibc tells of its heap, in the order of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def blocks_of_their_own(libc, gigabytes=1):
    """How many blocks of memory the system maps for a large one that nothing touches."""
    libc.mallinfo2.restype = MallInfo
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = libc.mallinfo2().hblks
    block = libc.malloc(gigabytes * 2**30)
    assert block
    after = libc.mallinfo2().hblks
    libc.free(block)
    return after - before


def test_large_blocks_come_from_the_kept_heap_and_the_default_is_restored():
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2  # noqa: B018
    except (OSError, AttributeError):
        pytest.skip("needs glibc 2.33")
    try:
        keep_memory(False)
        assert blocks_of_their_own(libc) == 1
        keep_memory()
        assert blocks_of_their_own(libc) == 0
    finally:
        keep_memory(False)
    # Larger than what the heap has kept.
    assert blocks_of_their_own(libc, 2) == 1


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(devices.ctypes, "CDLL", missing)
    keep_memory()
