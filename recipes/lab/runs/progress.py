"""How far the trials are: a line whenever another tenth of one is over."""

from __future__ import annotations

import sys
import threading
import time

from tqdm import tqdm


class Display:
    """Lines on stderr, with the time that is left by what this command has trained so far.

    Args:
        progress: show it at all.
    """

    def __init__(self, progress: bool) -> None:
        self.progress = progress
        self.tenths: dict[str, int] = {}
        self.begun: dict[str, tuple[float, float]] = {}
        self.lock = threading.Lock()

    def show(self, name: str, done: float, total: float, text: str) -> None:
        """Show how many epochs of the trial of this name are done."""
        with self.lock:
            first, at = self.begun.setdefault(name, (done, time.monotonic()))
            if not self.progress or int(10 * done / total) <= self.tenths.get(name, 0):
                return
            self.tenths[name] = int(10 * done / total)
            if first < done < total:
                pace = (time.monotonic() - at) / (done - first)
                text += f", {tqdm.format_interval(pace * (total - done))} left"
            print(f"{name}: epoch {done:g} of {total}, {text}", file=sys.stderr)
