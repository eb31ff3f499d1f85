"""How far the trials are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import NamedTuple

from tqdm import tqdm


class _Begun(NamedTuple):
    epochs: float
    at: float


class Display:
    """Bars on a terminal; elsewhere a line whenever another tenth of a trial is over.

    Both tell the time that is left, as far as what this command has trained allows to say.

    Args:
        progress: show it at all.
    """

    def __init__(self, progress: bool) -> None:
        self.progress = progress
        self.on_terminal = sys.stderr.isatty()
        self.bars: dict[str, tqdm] = {}
        self.tenths: dict[str, int] = {}
        self.begun: dict[str, _Begun] = {}
        self.lock = threading.Lock()

    def show(self, name: str, done: float, total: float, text: str) -> None:
        """Show how many epochs of the trial of this name are done."""
        if self.progress:
            with self.lock:
                (self._bar if self.on_terminal else self._line)(name, done, total, text)

    def _bar(self, name: str, done: float, total: float, text: str) -> None:
        if name not in self.bars:
            self.bars[name] = tqdm(
                total=total,
                desc=name,
                initial=done,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| epoch {n:.1f}/{total} "
                "[{elapsed}<{remaining}] {postfix}",
            )
        self.bars[name].set_postfix_str(text, refresh=False)
        self.bars[name].update(done - self.bars[name].n)

    def _line(self, name: str, done: float, total: float, text: str) -> None:
        first = self.begun.setdefault(name, _Begun(done, time.monotonic()))
        if int(10 * done / total) > self.tenths.get(name, 0):
            self.tenths[name] = int(10 * done / total)
            if first.epochs < done < total:
                pace = (time.monotonic() - first.at) / (done - first.epochs)
                text += f", {tqdm.format_interval(pace * (total - done))} left"
            print(f"{name}: epoch {done:g} of {total}, {text}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self.bars.values():
            bar.close()
