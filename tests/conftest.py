import os
import signal
from pathlib import Path

import pytest
import torch

if not hasattr(torch.testing, "assert_close"):  # torch 1.8, of the official 2021 environment

    def assert_close(actual, expected, rtol=1e-5, atol=1e-7):
        assert actual.dtype == expected.dtype
        assert torch.allclose(actual, expected, rtol=rtol, atol=atol)

    torch.testing.assert_close = assert_close

# Two test processes on two cores must not fight over four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets its background jobs ignore Ctrl-C, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Scripts that made the golden numbers: run by hand, with a checkout of the official code.
collect_ignore = ["data"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared():
    """Folder of real recordings and golden predictions that may stand beside the clone."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the recordings and golden predictions in ../shared")
    return folder
