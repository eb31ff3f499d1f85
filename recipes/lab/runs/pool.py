"""Trials side by side, each in a process of its own on a core or GPU."""

from __future__ import annotations

import functools
import queue
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing import connection
from typing import Any, Callable, Dict, Mapping, Sequence

import filelock
import torch

from lab.data.digests import digest
from lab.devices import choose_devices, cores, own_rank, started_together
from lab.errors import RESUME_ME, InputError, Stopped, resumable
from lab.processes import CONTEXT, end, leave, leave_with_parent
from lab.runs.progress import Display
from lab.runs.results import SCORES_OF
from lab.runs.trials import Trial, TrialFailed, provenance, read_record, run_trial, tests_of

#: Takes a trial and its record.
Keep = Callable[[Trial, Dict[str, Any]], object]
#: Seconds between two looks whether the process that holds a trial's folder has left it.
HELD = 5
# What takes ten seconds to import is imported once, whatever the number of trials.
CONTEXT.set_forkserver_preload(["pytorch_lightning", "torchaudio", "pandas", "scipy.signal"])


@resumable()
def run_trials(
    trials: Sequence[Trial],
    *,
    gpus: str | None = None,
    progress: bool = True,
    fast_dev_run: bool = False,
    verify_psds: bool = False,
    storage: str | None = None,
    study: str = "trials",
    keep: Keep | None = None,
) -> list[dict[str, Any]]:
    """Run trials, as many at a time as there are cores (or GPUs), and return their records.

    A finished trial is not run again, and an interrupted one goes on from its last checkpoint.
    When one fails the others are finished all the same; where all processes train one trial after
    another, the first that fails ends it.

    SIGTERM ends it, and its trials, within a batch. They go on from the end of their last epoch.

    Args:
        trials: with a folder each.
        gpus: the official flag; several GPUs take a trial each. Under torchrun or srun, or with
            `training.backend` ddp, all processes train one trial after another instead.
        progress: show how far they are.
        fast_dev_run, verify_psds: see :func:`lab.runs.trials.run_trial`.
        storage: URL of a database by which all that call this with the same trials, on any machine,
            share them; see :func:`lab.runs.study.share`.
        study: its name there.
        keep: called with each trial and its record as soon as it has ended, in several threads,
            and twice for those that machines share. The record of one that diverged has no scores,
            and the reason as `diverged`.

    Raises:
        InputError: a folder holds another run or one on other data, or the storage cannot be used.
        TrialFailed: an InputError, too; a trial met input that it cannot use, or it diverged.
        Stopped: the process of a trial was told to stop.
        RuntimeError: a trial failed otherwise.
    """
    digest.cache_clear()
    for trial in trials:
        read_record(trial)  # a folder of another run is refused before anything is trained
    options = {"fast_dev_run": fast_dev_run, "verify_psds": verify_psds}
    together = started_together() != (1, 1) or trials[0].config["training"]["backend"] == "ddp"
    if storage is not None and together:
        raise InputError(
            "--storage shares trials that are trained by one process each; start the command by "
            "itself, as often as you like, without training.backend=ddp"
        )
    display = Display(progress and own_rank() == 0)
    pool = Pool(trials, gpus, display, options, keep)
    try:
        if together:
            records = [pool.train_here(trial, gpus) for trial in trials]
        elif storage is not None:
            # Here, for Optuna is needed for this alone.
            from lab.runs.study import share

            records = share(trials, pool, storage, study, fast_dev_run)
            if keep is not None:
                for trial, record in zip(trials, records):
                    keep(trial, record)  # those of other machines
        else:
            records = pool.train(trials)
    finally:
        pool.close()
    for trial, record in zip(trials, records):
        if "diverged" in record:
            raise TrialFailed(f"{trial.name}: {record['diverged']}")
    return records


class Pool:
    """Threads that start processes, as many as train side by side.

    `trials` are all of them: the number of threads of a process changes roundings, and a resumed
    run has to end as one that was not interrupted. `options` are those of
    :func:`lab.runs.trials.run_trial`.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        gpus: str | None,
        display: Display,
        options: Mapping[str, bool],
        keep: Keep | None,
    ) -> None:
        accelerator, devices = choose_devices(gpus)
        names = [str(d) for d in devices] if isinstance(devices, list) else ["cpu"] * cores()
        self.size = min(len(names), len(trials))
        self.device = torch.device("cpu" if accelerator == "cpu" else f"cuda:{names[0]}")
        self.ended = threading.Event()
        self._threads = max(cores() // self.size, 1) if accelerator == "cpu" else 1
        self._places: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in names[: self.size]:
            self._places.put(name)
        self._display, self._options, self._keep = display, options, keep
        self._executor = ThreadPoolExecutor(self.size)
        self._processes: list[Any] = []
        # Two threads must not ask at once what became of a process.
        self._lock = threading.Lock()

    def train(self, trials: Sequence[Trial], keep: Keep | None = None) -> list[dict[str, Any]]:
        """Train some trials, whatever else is trained meanwhile, and return their records.

        `keep` is called as that of :func:`run_trials`, before it. What the first that failed raised
        is raised when the others have ended.
        """
        futures = [self._executor.submit(self._train, trial, keep) for trial in trials]
        wait(futures)
        return [future.result() for future in futures]

    def train_here(self, trial: Trial, gpus: str | None) -> dict[str, Any]:
        """Train a trial in all processes of the training, of which this is one."""
        torch.set_num_threads(cores())
        report = functools.partial(self._display.show, trial.name)
        try:
            record = run_trial(trial, gpus, report=report, **self._options)
        except (InputError, FloatingPointError) as error:
            raise TrialFailed(f"{trial.name}: {error}") from None
        if own_rank() == 0 and self._keep:
            self._keep(trial, record)
        return record

    def close(self) -> None:
        """End the processes, and let nothing begin any more."""
        self.ended.set()
        with self._lock:
            end(self._processes)
        self._executor.shutdown(cancel_futures=True)

    def _train(self, trial: Trial, keep: Keep | None) -> dict[str, Any]:
        # Ctrl-C is for this process, which ends the others, and a SIGTERM to all of them must not
        # end the server that starts them: both inherit this.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        place = self._places.get()
        receiver, sender = CONTEXT.Pipe(duplex=False)
        arguments = (sender, trial, place, self._threads, self._options)
        process = CONTEXT.Process(target=_work, args=arguments)
        with self._lock:
            if self.ended.is_set():
                raise Stopped(f"{trial.name} was told to stop")
            process.start()
            self._processes.append(process)
        sender.close()
        kind: str = "progress"
        content: Any = None
        with suppress(EOFError, OSError):
            while True:
                kind, content = receiver.recv()
                if kind == "progress":
                    self._display.show(trial.name, *content)
        connection.wait([process.sentinel])
        with self._lock:
            process.join()
            code = process.exitcode
            self._processes.remove(process)
        self._places.put(place)
        if code in (RESUME_ME, -signal.SIGTERM) or self.ended.is_set():
            raise Stopped(f"{trial.name} was told to stop")
        if kind == "input":
            raise TrialFailed(f"{trial.name}: {content}")
        if kind != "record":
            raise RuntimeError(f"{trial.name}: ended with exit code {code}")
        for one in filter(None, (keep, self._keep)):
            one(trial, content)
        return content


def _work(sender: Any, trial: Trial, place: str, threads: int, options: Mapping[str, bool]) -> None:
    """Train a trial in a process of its own."""
    signal.signal(signal.SIGTERM, leave)  # Lightning's way ends with exit code 0
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    torch.set_num_threads(threads)

    def report(*content: Any) -> None:
        leave_with_parent()
        sender.send(("progress", content))

    # A second process in the folder waits, and then has nothing to do.
    trial.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(trial.folder / ".lock")
    while not lock.is_locked:
        with suppress(filelock.Timeout):
            lock.acquire(timeout=HELD)
        leave_with_parent()
    try:
        sender.send(("record", run_trial(trial, place, report=report, **options)))
    except InputError as error:
        sender.send(("input", str(error)))
        raise SystemExit(2) from None
    except FloatingPointError as error:
        device = torch.device("cpu" if place == "cpu" else f"cuda:{place}")
        scores: dict[str, Any] = {SCORES_OF[name]: {} for name in tests_of(trial)}
        sender.send(("record", {**scores, **provenance(device), "diverged": str(error)}))
