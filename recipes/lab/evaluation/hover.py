"""What a figure shows at each place, so that a page can tell the values under the pointer.

All of it is read off a finished matplotlib figure: the functions of :mod:`plots` need not know.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.transforms import Bbox

POINTS = 72.0  # an inch: the unit of length of matplotlib's SVG files


def hover_values(figure: Figure) -> dict[str, Any]:
    """Values of lines, bars and marked spans by place.

    Args:
        figure: that was drawn, as saving it does.

    Returns:
        `panels`, each with its `box` [left, top, right, bottom] in points from the figure's upper
        left corner, its axes `x` and `y` (`name`, `unit`, `limits`, `log`), its `lines` (`name`,
        `colour`, `x`, `y`) and its `areas` (`box`, `text`). Plain data, without NaN.

    Example:
        >>> figure = Figure()
        >>> _ = figure.subplots().plot([1, 2], [0.5, 0.25], label="coherence")
        >>> (panel,) = hover_values(figure)["panels"]
        >>> panel["lines"][0]["name"], panel["lines"][0]["y"]
        ('coherence', [0.5, 0.25])
    """
    panels = []
    for panel in figure.axes:
        if not panel.axison:
            continue
        x, y = _axis(panel, "x"), _axis(panel, "y", figure.get_supylabel())
        found = {
            "box": _box(panel.get_window_extent(), figure),
            "x": x,
            "y": y,
            "lines": _lines(panel),
            "areas": [*_bars(panel, x["unit"], y["unit"]), *_spans(panel, x["unit"])],
        }
        if found["lines"] or found["areas"]:
            panels.append(found)
    return {"panels": panels}


def description(figure: Figure) -> str:
    """Say what a figure shows to those who do not see it: its panels, and what is drawn in them.

    Example:
        >>> figure = Figure()
        >>> panel = figure.subplots()
        >>> _ = panel.plot([1, 2], [2, 1], label="coherence")
        >>> _ = panel.set_title("loss", loc="left")
        >>> description(figure)
        'Panels: loss. Shown: coherence.'
    """
    panels = [panel.get_title(loc="left") or panel.get_xlabel() for panel in figure.axes]
    labels = [label for panel in figure.axes for label in panel.get_legend_handles_labels()[1]]
    parts = {"Panels": panels, "Shown": labels}
    return " ".join(
        f"{name}: {', '.join(dict.fromkeys(filter(None, words)))}."
        for name, words in parts.items()
        if any(words)
    )


def _axis(panel: Axes, which: str, common: str = "") -> dict[str, Any]:
    """Name, unit, limits and scale of an axis; a panel without a label has a neighbour's."""
    siblings = getattr(panel, f"get_shared_{which}_axes")().get_siblings(panel)
    labels = [getattr(one, f"get_{which}label")() for one in (panel, *siblings)]
    label = next(filter(None, [*labels, common]), "")
    unit = re.search(r"\((%|s)\)", label)
    return {
        "name": re.sub(r"\s*\(.*", "", label),
        "unit": f" {unit[1]}" if unit else "",
        "limits": [float(end) for end in getattr(panel, f"get_{which}lim")()],
        "log": getattr(panel, f"get_{which}scale")() == "log",
    }


def _lines(panel: Axes) -> list[dict[str, Any]]:
    curves: list[tuple[Any, Any, Any, Any]] = [
        (line, *line.get_data(), line.get_color())
        for line in panel.get_lines()
        # Lines across a panel, such as a threshold, have no points.
        if line.get_transform() == panel.transData
    ]
    for patch in panel.patches:
        if isinstance(patch, StepPatch):
            heights, edges, _ = patch.get_data()
            curves.append((patch, (edges[1:] + edges[:-1]) / 2, heights, patch.get_edgecolor()))
    found = []
    for artist, x, y, colour in curves:
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        known = np.isfinite(x) & np.isfinite(y)
        if _is_named(artist) and known.any():
            found.append(
                {
                    "name": artist.get_label(),
                    "colour": to_hex(colour),
                    "x": [float(f"{value:.6g}") for value in x[known]],
                    "y": [float(f"{value:.4g}") for value in y[known]],
                }
            )
    return found


def _bars(panel: Axes, x_unit: str, y_unit: str) -> list[dict[str, Any]]:
    found = []
    for bars in panel.containers:
        if not isinstance(bars, BarContainer):
            continue
        flat = bars.orientation == "horizontal"
        axis, unit = (panel.yaxis, x_unit) if flat else (panel.xaxis, y_unit)
        places = list(axis.get_ticklocs())
        names = [text.split("\n")[0] for text in axis.get_major_formatter().format_ticks(places)]
        for bar in bars:
            start, length = bar.get_x(), bar.get_width()
            middle = bar.get_y() + bar.get_height() / 2
            if not flat:
                start, length, middle = bar.get_y(), bar.get_height(), start + length / 2
            if not length or not np.isfinite(length):
                continue
            name = names[int(np.abs(np.array(places) - middle).argmin())]
            # One without a name stands for a range.
            words = f"{start:.3g} to {start + length:.3g}{unit}"
            if _is_named(bars):
                words = f"{bars.get_label()} {length:.3g}{unit}"
            found.append(_area(panel, bar.get_window_extent(), f"{name}: {words}"))
    return found


def _spans(panel: Axes, unit: str) -> list[dict[str, Any]]:
    found = []
    for patch in panel.patches:
        if _is_named(patch) and patch.get_data_transform() != panel.transData:
            extent = patch.get_window_extent()
            (start, _), (end, _) = panel.transData.inverted().transform(extent.get_points())
            words = f"{patch.get_label()}: {start:.2f} to {end:.2f}{unit}"
            found.append(_area(panel, extent, words))
    return found


def _is_named(artist: Any) -> bool:
    """Whether the legend may show it."""
    label = str(artist.get_label())
    return bool(label) and not label.startswith("_")


def _area(panel: Axes, extent: Bbox, text: str) -> dict[str, Any]:
    return {"box": _box(extent, panel.figure), "text": text}


def _box(extent: Bbox, figure: Any) -> list[float]:
    """Corners in points from the upper left corner."""
    scale = POINTS / figure.dpi
    sides = (extent.x0, figure.bbox.height - extent.y1, extent.x1, figure.bbox.height - extent.y0)
    return [round(float(scale * side), 1) for side in sides]
