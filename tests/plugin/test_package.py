import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_core_needs_torch_alone():
    code = """
import sys

from dcase_coherence import *
third = {"pandas", "scipy", "yaml", "pytorch_lightning", "torchaudio", "soundfile"}
print(CoherenceLoss.__name__, sorted(third & set(sys.modules)))
"""
    assert run(code) == "CoherenceLoss []"


def test_modules_of_the_core_are_found_without_an_import_of_their_own():
    code = "import dcase_coherence as d; print(d.functional.transition_loss is d.transition_loss)"
    assert run(code) == "True"


def test_completion_shows_the_public_names_alone():
    code = (
        "import dcase_coherence as d; print(hasattr(d, 'nothing'), set(dir(d)) == set(d.__all__))"
    )
    assert run(code) == "False True"
