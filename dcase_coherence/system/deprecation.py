"""How names retire: for one minor version the old name works and warns."""

from __future__ import annotations

import functools
import warnings
from typing import Any, Callable, TypeVar

Retired = TypeVar("Retired", bound=Callable[..., Any])


def deprecated(instead: str, gone_in: str) -> Callable[[Retired], Retired]:
    """Let a function or class go on working, with a FutureWarning at each call.

    Args:
        instead: what to use, in words.
        gone_in: the version that no longer has it.

    Example:
        >>> @deprecated("use new()", gone_in="0.3")
        ... def old():
        ...     return 1
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     old()
        1
        >>> print(seen[0].message)
        old is gone in dcase_coherence 0.3; use new()
    """

    def retire(callee: Retired) -> Retired:
        @functools.wraps(callee)
        def warned(*arguments: Any, **options: Any) -> Any:
            sentence = f"{callee.__name__} is gone in dcase_coherence {gone_in}; {instead}"
            warnings.warn(sentence, FutureWarning, stacklevel=2)
            return callee(*arguments, **options)

        return warned  # type: ignore[return-value]

    return retire
