"""What needs the libraries that define the scores of a test."""

import pytest

from lab.evaluation.reference import missing

needs_verify = pytest.mark.skipif(bool(missing()), reason="needs pip install '.[verify]'")
