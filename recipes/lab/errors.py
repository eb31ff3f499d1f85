"""How a command ends early: bad input and signals are one sentence and an exit code.

What it prints reaches any console, and a reader of its output may leave.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, TypeVar

#: What mends an environment, without the extras.
INSTALL = "in the clone: pip install -c recipes/envs/constraints.txt"


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, its value and the fix."""


Main = TypeVar("Main", bound=Callable[..., object])

#: Exit code of a command that a scheduler stopped, and that may be started again.
RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h
#: Exit code of a command whose output nobody reads any more.
UNREAD = 141  # as shells report SIGPIPE
SIGNALS = {signal.SIGTERM: RESUME_ME, signal.SIGINT: 130}


class Stopped(SystemExit):
    """A signal ended the command, or a process of its own; `what` is shown to the user."""

    def __init__(self, what: str, code: int = RESUME_ME) -> None:
        super().__init__(code)
        self.what = what
        self.resumable = False  # the same command goes on where this one stopped


@contextmanager
def resumable() -> Iterator[None]:
    """Mark work whose finished part is kept: a command that is stopped in it says so."""
    try:
        yield
    except Stopped as stopped:
        stopped.resumable = True
        raise


def stop(number: int, frame: object = None) -> None:
    """Handle a signal by raising :class:`Stopped`; more signals cannot disturb the end.

    A SystemExit, not a KeyboardInterrupt: Lightning answers the latter itself, with exit code 1.
    """
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    name = signal.Signals(number)
    by = "Ctrl-C" if name == signal.SIGINT else name.name
    raise Stopped(f"stopped by {by}", SIGNALS[name])


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let the signals raise :class:`Stopped` in the block."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    hook = sys.unraisablehook

    def once_more(unraisable: Any) -> None:
        # What is raised while an object is deleted goes no further.
        if not isinstance(unraisable.exc_value, Stopped):
            hook(unraisable)
            return
        number = next(n for n, code in SIGNALS.items() if code == unraisable.exc_value.code)
        signal.signal(number, stop)
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    for number, handler in handlers.items():
        # A shell lets its background jobs ignore Ctrl-C.
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    sys.unraisablehook = once_more
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _any_console() -> Iterator[None]:
    """Print what a console lacks as escapes; end quietly when the reader of a pipe is gone."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            for stream in streams:
                stream.flush()
    except BrokenPipeError:
        unread = [stream for stream in streams if _is_unread(stream)]
        if not unread:  # the pipe to a process, or to a database
            raise
        with open(os.devnull, "w") as nowhere:
            for stream in unread:
                # Python flushes it once more when it ends.
                os.dup2(nowhere.fileno(), stream.fileno())
        raise SystemExit(UNREAD) from None


def _is_unread(stream: Any) -> bool:
    """Whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll on Windows; no file behind the stream
        return False


def command(main: Main) -> Main:
    """Give a command-line ``main`` the exit codes of the project, each with one sentence.

    2 for an :class:`InputError`, 75 for SIGTERM (start me again), 130 for Ctrl-C. It ends with 141,
    without a sentence, when the reader of its output is gone.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        with _any_console():
            try:
                with _stoppable():
                    return main(*args, **kwargs)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(2) from None
            except Stopped as stopped:
                advice = "run the same command again to start over"
                if stopped.resumable:
                    advice = "what is finished is kept; run the same command again to go on"
                print(f"{stopped.what}: {advice}", file=sys.stderr)
                raise SystemExit(stopped.code) from None

    return wrapped  # type: ignore[return-value]
