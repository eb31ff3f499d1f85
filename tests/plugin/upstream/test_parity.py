"""The same batch and weights, in the official 2021 environment and in this one."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent


def test_losses_equal_those_of_the_official_environment(checkouts, tmp_path):
    if not version("pytorch-lightning").startswith(("1.2.", "2.")):
        pytest.skip("the 2021 recipe runs in its own environment and in today's")
    official = os.environ.get("DESED_PYTHON")
    if not official:
        pytest.skip("set DESED_PYTHON to the python of recipes/envs/requirements-dcase2021.txt")
    logged = []
    for index, python in enumerate((official, sys.executable)):
        out = tmp_path / f"{index}.json"
        command = [python, str(HERE / "one_step.py"), str(checkouts("pinned"))]
        subprocess.run(
            [*command, str(tmp_path / "state.pt"), str(out)],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
            check=True,
        )
        logged.append(json.loads(out.read_text()))
    assert set(logged[0]) == set(logged[1])
    assert logged[0]["train/coherence/d_boundary"] > 0
    assert logged[0]["train/coherence/share"] > 0
    for name, value in logged[0].items():
        assert logged[1][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
