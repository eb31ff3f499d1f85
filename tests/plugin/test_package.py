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

import pytest
from dcase_coherence import *
third = {"pandas", "scipy", "yaml", "pytorch_lightning", "torchaudio", "soundfile"}
print(CoherenceLoss.__name__, sorted(third & set(sys.modules)))
"""
    assert run(code) == "CoherenceLoss []"


def test_modules_of_the_core_are_found_without_an_import_of_their_own():
    code = "import dcase_coherence as d; print(d.functional.coherence_loss is d.coherence_loss)"
    assert run(code) == "True"


def test_an_unknown_name_is_an_attribute_error():
    code = "import dcase_coherence as d; print(hasattr(d, 'nothing'), 'FeatureTap' in dir(d))"
    assert run(code) == "False True"
