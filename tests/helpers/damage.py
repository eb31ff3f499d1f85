"""Files as they should not be, for the tests of what reads them."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lab.errors import InputError

#: No deadline: a machine under load is slow, not wrong.
fuzz = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw, originals):
    """A real file with bytes changed, put in, taken out, and its end cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 6))):
        # Headers are where the harm is done.
        top = len(content) if draw(st.booleans()) else min(len(content), 200)
        at = draw(st.integers(0, max(top, 1)))
        new = draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f"]))
        content[at : at + draw(st.sampled_from([0, len(new), 1, 50]))] = new
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


def read_or_refuse(reader, path, content):
    """What a reader makes of a file's content; None where it refuses it."""
    path.write_bytes(content)
    try:
        return reader(path)
    except InputError:
        return None


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
