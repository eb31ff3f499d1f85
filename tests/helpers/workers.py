"""Ends of worker processes: how claims.side_by_side sees them, and one that is killed in a job."""

import os
import signal
import time

from lab.errors import InputError
from lab.runs import claims


def fails(number, worker, storage, jobs):
    raise InputError(f"worker {number} met bad input")


def is_killed(number, worker, storage, jobs):
    def run(name, check):
        os.kill(os.getpid(), signal.SIGKILL)

    claims.work(claims.open_study(storage, "study", {}), storage, jobs, run, worker)


def is_told_to_stop(number, worker, storage, jobs):
    def run(name, check):
        os.kill(os.getpid(), signal.SIGTERM)

    claims.work(claims.open_study(storage, "study", {}), storage, jobs, run, worker)


def read_log(log):
    """Epochs that each process ran of each job, from lines of process, job and epoch."""
    found = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        process, job, epoch = line.split("\t")
        found.setdefault(job, {}).setdefault(int(process), []).append(int(epoch))
    return found


def kill_in_a_job(first, second, log):
    """Kill the first of two processes after two epochs of a job, await both, and name the job."""
    deadline = time.monotonic() + 60
    while not (jobs := [j for j, by in read_log(log).items() if len(by.get(first.pid, [])) == 2]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    second.join()
    assert second.exitcode == 0
    return jobs[-1]
