"""How bad input is reported: one sentence, exit code 2."""

from __future__ import annotations

import functools
import sys
from typing import Callable, TypeVar

Main = TypeVar("Main", bound=Callable[..., object])


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, its value and the fix."""


def command(main: Main) -> Main:
    """Turn an :class:`InputError` of a command-line ``main`` into one sentence and exit code 2.

    Example:
        >>> @command
        ... def main():
        ...     raise InputError("--trials is 0; give at least 1")
        >>> try:
        ...     main()
        ... except SystemExit as stop:
        ...     print(stop.code)
        2
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped  # type: ignore[return-value]
