"""Numbers as they are shown: units, signs, decimals, and what has no number."""

import json
import math

import numpy as np
import pytest

from lab.evaluation.tables import (
    SCORES,
    interval,
    mean_and_deviation,
    percent,
    points,
    probability,
    scale_of,
    to_json,
)

NAN = float("nan")


def test_f1_is_in_percent_and_psds_is_not():
    for name, title in SCORES.items():
        assert scale_of(title) == ((1, 3) if name.startswith("psds") else (100, 2))


@pytest.mark.parametrize(
    ("values", "title", "expected"),
    [
        ([0.4], "F1 (%)", "40.00"),
        ([0.4, 0.42, 0.44], "F1 (%)", "42.00 ± 2.00"),  # of a sample: divided by 2, not by 3
        ([0.3, 0.5], "PSDS 1", "0.400 ± 0.141"),
        ([], "F1 (%)", "-"),
        (np.array([0.25, 0.25]), "F1 (%)", "25.00 ± 0.00"),
        (np.array([]), "PSDS 1", "-"),
    ],
)
def test_mean_and_deviation_over_trials(values, title, expected):
    assert mean_and_deviation(values, title) == expected


def test_numbers_that_are_not_there_are_a_dash():
    assert [percent(value) for value in (0.0, 0.4214, 1.0, NAN)] == ["0.0", "42.1", "100.0", "-"]
    assert [points(value) for value in (0.02, -0.02, NAN)] == ["+2.0", "-2.0", "-"]
    assert [interval(-0.0123, 0.0456, 2), interval(NAN, NAN)] == ["[-1.23, +4.56]", "-"]
    values = (0.0009, 0.001, 0.05, 1.0, NAN)
    assert [probability(p) for p in values] == ["< 0.001", "0.001", "0.050", "1.000", "-"]


def test_json_has_null_where_there_is_no_number():
    content = {"f1": np.float32(0.5), "p": NAN, "runs": [math.inf, -math.inf, 1], "name": "NaN"}
    text = to_json(content)
    assert text.endswith("}\n")
    expected = {"f1": 0.5, "p": None, "runs": [None, None, 1], "name": "NaN"}
    assert json.loads(text, parse_constant=pytest.fail) == expected
