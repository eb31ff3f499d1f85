"""What the user gave and cannot be used, and how paths are given."""

from __future__ import annotations

import os
from typing import Union

PathLike = Union[str, "os.PathLike[str]"]


class InputError(ValueError):
    """Something the user gave cannot be used; the message names it, its value and the fix."""
