"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from lab.errors import InputError

PathLike = Union[str, "os.PathLike[str]"]
PARTIAL = "-partial-"


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; move it there when the block ends without an error.

    Missing folders are made. A reader never sees half a file, and a crash leaves what was there.

    Raises:
        InputError: the folder cannot be written or the disk is full (any OSError of the block).
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays, for writers that choose the format by it.
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}{PARTIAL}", suffix=target.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror or error}); make room or give another "
            "folder, and run the same command again"
        ) from None


def write_whole(path: PathLike, content: Union[str, bytes, memoryview]) -> None:
    """Write a file by way of :func:`whole_file`; text as UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def left_over(folder: PathLike) -> list[Path]:
    """List the temporary files in a folder and below: a killed process left them, or one writes."""
    return sorted(Path(folder).rglob(f".*{PARTIAL}*"))


def remove_left_over(folder: PathLike) -> None:
    """Remove the temporary files that a killed process left in a folder and below.

    Call it where no other process writes.
    """
    for path in left_over(folder):
        path.unlink(missing_ok=True)


def one_spelling(text: str) -> str:
    r"""Write a name as one sequence of characters: "é" has two, which look the same.

    Example:
        >>> one_spelling("caf\u00e9") == one_spelling("cafe\u0301")
        True
    """
    return unicodedata.normalize("NFC", text)
