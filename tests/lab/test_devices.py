"""Cores and GPUs, the processes that share them, and the memory that is kept."""

import ctypes
import os

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

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


@pytest.mark.parametrize(
    # The processes of torchrun share the cores; srun has given each its own.
    ("count", "environment", "expected"),
    [(3, {}, 3), (5, TORCHRUN, 2), (1, TORCHRUN, 1), (5, SRUN, 5)],
)
def test_cores_are_those_this_process_may_use(monkeypatch, gpus, count, environment, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)), raising=False)
    gpus(0, **environment)
    assert cores() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores() == expected


def test_choice_of_devices(gpus):
    gpus(0)
    assert choose_devices(None) == choose_devices("0") == choose_devices("cpu") == ("cpu", 1)
    with pytest.raises(InputError, match="0 GPUs"):
        choose_devices("0,1")
    gpus(2)
    assert choose_devices(None) == choose_devices("0") == ("gpu", [0])
    assert choose_devices("-1") == ("gpu", [0, 1])
    for flag in ("two", "2", ""):
        with pytest.raises(InputError, match="--gpus"):
            choose_devices(flag)


def test_processes_without_a_launcher(gpus):
    gpus(2)
    assert started_together() == (1, 1)
    assert choose_processes(None, None) == Processes("gpu", [0])
    assert choose_processes("0,1", "ddp") == Processes("gpu", [0, 1])
    assert choose_processes("0,1", "ddp").total == 2
    with pytest.raises(InputError, match=r"--gpus is '0,1'.*training\.backend to ddp"):
        choose_processes("0,1", None)


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_processes_of_torchrun_and_srun(gpus, environment):
    gpus(4, **environment)
    assert started_together() == (2, 3)
    assert choose_processes(None, None) == Processes("gpu", [0, 1], 3)
    assert choose_processes("2,3", None) == Processes("gpu", [2, 3], 3)
    assert choose_processes("cpu", None) == Processes("cpu", 2, 3)
    assert choose_processes("cpu", None).total == 6
    for flag in ("0", "0,1,2"):
        with pytest.raises(InputError, match="2 processes were started on this machine for"):
            choose_processes(flag, None)
    gpus(1)
    with pytest.raises(InputError, match="for 1 GPUs"):
        choose_processes(None, None)


def test_rank_is_the_launchers_and_0_for_one_process(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 2)
    assert own_rank() == 2
    assert Processes("cpu", 2, 3).rank == Processes("gpu", [0], 2).rank == 2
    # One training of several that torchrun started side by side is alone.
    assert Processes("cpu", 1).rank == Processes("gpu", [1]).rank == 0


class MallInfo(ctypes.Structure):
    """What glibc tells of its heap; the fourth is the number of blocks of their own."""

    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def test_large_blocks_come_from_the_kept_heap_and_the_default_is_restored():
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = MallInfo
    except (OSError, AttributeError):
        pytest.skip("needs glibc 2.33")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def blocks_of_its_own(gigabytes):
        before = libc.mallinfo2().sizes[3]
        block = libc.malloc(gigabytes * 2**30)
        after = libc.mallinfo2().sizes[3]
        libc.free(block)
        return after - before

    try:
        for keep, gigabytes in ((False, 1), (True, 1), (False, 2)):
            keep_memory(keep)
            assert blocks_of_its_own(gigabytes) == (not keep)
    finally:
        keep_memory(False)
