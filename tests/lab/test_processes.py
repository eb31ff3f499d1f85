"""The order of results, errors, and a killed process."""

import os
import signal

import pytest

from lab.processes import over_files

pytestmark = pytest.mark.slow


def test_results_come_in_order_from_several_processes():
    items = [f"{index}/name" for index in range(120)]
    assert list(over_files(os.path.dirname, items, processes=2)) == [str(i) for i in range(120)]


def test_an_error_is_passed_on():
    with pytest.raises(TypeError):
        list(over_files(os.path.dirname, [0] * 120, processes=2))


def test_a_killed_process_is_a_sentence():
    with pytest.raises(RuntimeError, match="run the same command again"):
        list(over_files(signal.raise_signal, [signal.SIGKILL] * 120, processes=2))
