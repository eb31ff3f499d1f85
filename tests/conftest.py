import os
from pathlib import Path

import pytest

# Two test processes on two cores must not fight over four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared():
    """Folder of real recordings and golden predictions that may stand beside the clone."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the recordings and golden predictions in ../shared")
    return folder
