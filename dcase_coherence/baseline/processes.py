"""A function of many files, in several processes."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Callable, Iterator, Sequence, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


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
                for result in pool.map(function, items, chunksize=8):
                    yield result
                    bar.update()
            except BrokenProcessPool:
                raise RuntimeError(
                    "a process was killed; run the same command again, with fewer --processes if "
                    "memory ran out"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
