"""How scores are written: their titles, mean and deviation, differences, intervals, p, JSON."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any, Sequence

#: The scores that tables show: their name, wherever it is logged or kept, and their title.
SCORES = {
    "event_f1_macro": "event F1, macro (%)",
    "event_f1_micro": "event F1, micro (%)",
    "segment_f1_macro": "segment F1, macro (%)",
    "intersection_f1_macro": "intersection F1 (%)",
    "psds_score_scenario1": "PSDS 1",
    "psds_score_scenario2": "PSDS 2",
}


def scale_of(title: str) -> tuple[int, int]:
    """Factor and decimals of a score in [0, 1] under a title: percent where it says so.

    Example:
        >>> scale_of("event F1, macro (%)"), scale_of("PSDS 1")
        ((100, 2), (1, 3))
    """
    return (100, 2) if "%" in title else (1, 3)


def mean_and_deviation(values: Sequence[float], title: str) -> str:
    """Write the mean over trials and, of several, the standard deviation; a dash for none.

    Example:
        >>> mean_and_deviation([0.5, 0.52], "event F1, macro (%)"), mean_and_deviation([], "PSDS 1")
        ('51.00 ± 1.41', '-')
    """
    scale, digits = scale_of(title)
    if not len(values):
        return "-"
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{spread}"


def seeds_note(count: int) -> str:
    """Say on how many seeds a difference between models rests, and what one is worth.

    Example:
        >>> seeds_note(3)
        'The differences rest on 3 seeds.'
    """
    if count > 1:
        return f"The differences rest on {count} seeds."
    return (
        "The differences rest on one seed and prove nothing: with another they may be the other "
        "way round. --trials 3 gives three seeds."
    )


def percent(value: float) -> str:
    """Write a score in [0, 1] in percent; a dash for NaN.

    Example:
        >>> percent(0.1234), percent(float("nan"))
        ('12.3', '-')
    """
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def points(value: float, digits: int = 1) -> str:
    """Write a difference of scores in [0, 1] in points; a dash for NaN.

    Example:
        >>> points(0.0123, 2), points(float("nan"))
        ('+1.23', '-')
    """
    return "-" if math.isnan(value) else f"{100 * value:+.{digits}f}"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Write an interval of such a difference; a dash for NaN.

    Example:
        >>> interval(-0.01, 0.02)
        '[-1.0, +2.0]'
    """
    return "-" if math.isnan(low) else f"[{points(low, digits)}, {points(high, digits)}]"


def probability(value: float) -> str:
    """Write a p; a dash for NaN, where there is no test.

    Example:
        >>> probability(0.0004), probability(0.05), probability(float("nan"))
        ('< 0.001', '0.050', '-')
    """
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def to_json(content: Any) -> str:
    """Write numbers and plain data as JSON, with null for NaN and infinity, which it lacks.

    Example:
        >>> print(to_json({"f1": float("nan")}), end="")
        {
          "f1": null
        }
    """
    text = json.dumps(content, default=float)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2) + "\n"
