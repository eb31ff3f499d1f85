"""A function of many files in several processes, by joblib's loky, and workers that train.

The latter have a GPU or share of the cores each, tell their progress, and leave within a batch of
being told to stop, which a pool that hands out calls does not give.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Callable, Iterator, Sequence, TypeVar

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from lab.devices import cores
from lab.errors import RESUME_ME

Item = TypeVar("Item")
Result = TypeVar("Result")
CONTEXT = multiprocessing.get_context("forkserver")  # a fork would inherit threads and locks
GRACE = 10  # seconds
ORPHANED = 15  # seconds after which a worker without work ends: its parent may have been killed


def over_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int | None = None,
    at_least: int = 50,
    progress: str | None = None,
) -> Iterator[Result]:
    """Give `function(item)` for each item, in the order of the items.

    Args:
        function: at the top of a module, as it is sent to the processes by name.
        items: what it is called with.
        processes: how many at most; as many as there are cores when None.
        at_least: items a process, for starting one takes longer than a few dozen clips.
        progress: title of the bar that is shown on a terminal; None for no bar.

    Raises:
        RuntimeError: a process was killed.

    Example:
        >>> list(over_files(os.path.basename, ["a/b.wav", "a/c.wav"]))
        ['b.wav', 'c.wav']
    """
    processes = min(cores() if processes is None else processes, len(items) // at_least)
    results = _results(function, items, processes)
    disable = None if progress else True
    yield from tqdm(results, progress, len(items), unit="clip", disable=disable)


def _results(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int
) -> Iterator[Result]:
    if processes < 2:
        yield from map(function, items)
        return
    # A worker has one core to itself, so threads of its own would only be in the way.
    with parallel_config(
        "loky", n_jobs=processes, inner_max_num_threads=1, idle_worker_timeout=ORPHANED
    ):
        workers = Parallel(return_as="generator")
    # Ctrl-C is not for them, who would each print a traceback: their parent ends them.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        results = workers(delayed(function)(item) for item in items)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield from results
    except BrokenProcessPool:
        raise RuntimeError(
            "a process was killed; run the same command again to go on, with fewer --processes "
            "if memory ran out"
        ) from None
    finally:
        results.close()


def leave_with_parent() -> None:
    """Leave a process whose parent was killed: it would write into the run that goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def leave(number: int, frame: object = None) -> None:
    """Handle a signal, in a process that trains, by leaving at once.

    No file is ever half written, so there is nothing to tidy up; an exception could get lost in
    what it interrupts. The parent tells the user.
    """
    os._exit(RESUME_ME)


def end(processes: Sequence[BaseProcess]) -> None:
    """Ask processes to end, and kill them when they have not ended after a while."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        process.kill()
        process.join()
