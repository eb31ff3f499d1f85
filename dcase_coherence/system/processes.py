"""A function of many files, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Callable, Iterator, Sequence, TypeVar

from tqdm import tqdm

from dcase_coherence.system.errors import RESUME_ME

Item = TypeVar("Item")
Result = TypeVar("Result")
GRACE = 10  # seconds


def over_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int | None = None,
    progress: str | None = None,
) -> Iterator[Result]:
    """Give `function(item)` for each item, in the order of the items.

    Args:
        function: at the top of a module, as it is sent to the processes by name.
        items: what it is called with.
        processes: how many; as many as there are cores when None.
        progress: title of the bar that is shown on a terminal; None for no bar.

    Raises:
        RuntimeError: a process was killed.

    Example:
        >>> list(over_files(os.path.basename, ["a/b.wav", "a/c.wav"]))
        ['b.wav', 'c.wav']
    """
    if processes is None:
        affinity = getattr(os, "sched_getaffinity", None)
        processes = len(affinity(0)) if affinity else os.cpu_count() or 1
    bar = tqdm(total=len(items), desc=progress, unit="clip", disable=None if progress else True)
    # Starting a process takes longer than a few dozen clips.
    processes = min(processes, len(items) // 50)
    with bar:
        if processes < 2:
            for item in items:
                yield function(item)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            try:
                with starting():
                    results = pool.map(function, items, chunksize=8)
                for result in results:
                    yield result
                    bar.update()
            except BrokenProcessPool:
                raise RuntimeError(
                    "a process was killed; run the same command again, with fewer --processes if "
                    "memory ran out"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def starting() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is their parent that ends them.

    A terminal sends it to the whole group, and each would print a traceback of its own.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave(number: int, frame: object = None) -> None:
    """Handle a signal, in a process that trains, by leaving at once.

    No file is ever half written, so there is nothing to tidy up; an exception could get lost in
    what it interrupts. The parent tells the user.
    """
    os._exit(RESUME_ME)


def end(processes: Sequence[BaseProcess]) -> None:
    """End processes: they are asked to, and killed when they have not ended after a while.

    A scheduler leaves half a minute or so, and no file is ever half written.
    """
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        process.kill()
        process.join()
