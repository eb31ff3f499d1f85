"""Golden numbers of the official baseline, and tiny data sets."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def golden():
    """Arrays of the official baseline, by name."""
    with np.load(DATA / "baseline" / "golden.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="session")
def golden_inputs():
    """The script that made them: its inputs and settings."""
    return SimpleNamespace(**runpy.run_path(str(DATA / "make_golden_baseline.py")))


@pytest.fixture(scope="session")
def golden_json():
    """Tables of the official baseline, by file name."""
    return {p.stem: json.loads(p.read_text()) for p in (DATA / "baseline").glob("*.json")}


@pytest.fixture(autouse=True)
def one_thread():
    """The same order of additions on every machine, and no fight over cores."""
    torch.set_num_threads(1)
