"""Ends of worker processes, as dcase_coherence.runs.claims.side_by_side starts them."""

import os
import signal

from dcase_coherence.runs import claims
from dcase_coherence.system.errors import InputError


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
