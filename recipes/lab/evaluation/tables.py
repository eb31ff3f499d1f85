"""How scores are written: their titles, mean and deviation, differences, intervals, p, JSON."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any, Mapping, Sequence

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


def difference(test: Mapping[str, Any], digits: int = 2) -> str:
    """Write a difference in points, with its 95 % interval where there is one.

    Args:
        test: `difference`, `low` and `high`, as :func:`significance.compare` has them in a row.
        digits: decimals.

    Example:
        >>> difference({"difference": 0.01, "low": -0.005, "high": 0.025}, 1)
        '+1.0 [-0.5, +2.5]'
    """
    written = points(test["difference"], digits)
    known = not math.isnan(test["low"])
    return f"{written} {interval(test['low'], test['high'], digits)}" if known else written


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown: numbers at the right, columns as wide as their cells.

    Example:
        >>> print(markdown(["setting", "F1"], [["baseline", "58.5"]]))
        | setting  |   F1 |
        |:---------|-----:|
        | baseline | 58.5 |
    """
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    written = []
    for cells in lines:
        first, *others = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths))
        )
        written.append(f"| {' | '.join([first, *others])} |")
    rule = [f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    return "\n".join([written[0], f"|{'|'.join(rule)}|", *written[1:]])


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
