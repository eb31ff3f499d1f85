"""Figures. Each function returns a matplotlib Figure; :func:`save` writes it as PNG and SVG.

No pyplot, so no global state: figures can be made in threads, in servers and without a display.
The two models keep their colour and line in every figure (Okabe and Ito's palette, told apart
by colour-blind people and, by the line, in a grey print). All text is shown as it is: a $ in the
name of a file or class begins no formula.
"""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from lab.errors import InputError
from lab.evaluation.boundaries import COLLAR, Histogram, Profile
from lab.evaluation.metrics import check_events
from lab.evaluation.profile import OF_REFERENCE, OFFICIAL, of_systems, readable
from lab.files import whole_file

matplotlib.rcParams["text.parse_math"] = False

#: Colour and line of the two models, then of any others in the order they come.
STYLES: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#0072B2", "linestyle": (0, (3, 1)), "linewidth": 1.4},
    "coherence": {"color": "#D55E00", "linestyle": "-", "linewidth": 1.4},
    "third": {"color": "#009E73", "linestyle": "-.", "linewidth": 1.4},
    "fourth": {"color": "#CC79A7", "linestyle": ":", "linewidth": 1.4},
    "fifth": {"color": "#E69F00", "linestyle": (0, (6, 1, 1, 1)), "linewidth": 1.4},
}
SHADE = "#D9D9D9"
#: Colours of what became of reference events, none of them that of a model: found, found with a
#: wrong edge, lost.
OUTCOMES = dict(
    zip(OF_REFERENCE, ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#CFCFCF"))
)
#: Colour of text on coloured fields.
ON_COLOUR = "#1A1A1A"
WIDTH = 7.0  # inches: two columns of a paper


def posteriors(
    models: Mapping[str, np.ndarray],
    reference: pd.DataFrame,
    classes: Sequence[str],
    *,
    frame_seconds: float,
    threshold: float = 0.5,
    shown_above: float = 0.3,
    show: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Posteriors of one clip against its reference events, one panel a class (Fig. 4c).

    Shows the classes of the reference and those that a model takes for present somewhere.

    Args:
        models: posteriors `(frames, classes)` by name of the model ("baseline", "coherence").
        reference: annotated events of this clip (onset, offset in seconds, event_label).
        classes: class names, in the order of the last axis.
        frame_seconds: time from one frame to the next.
        threshold: decision threshold, drawn as a line.
        shown_above: a class that the reference lacks is shown when a posterior exceeds this.
        show: show these classes and no others.
        title: for example the name of the clip.

    Raises:
        InputError: shapes do not fit, or the reference holds another class or several clips.
    """
    classes = list(classes)
    events = _one_clip(reference)
    arrays = {name: np.asarray(values, dtype=float) for name, values in models.items()}
    if not arrays:
        raise InputError("models is empty; give posteriors of at least one model")
    for name, values in arrays.items():
        if values.ndim != 2 or values.shape[1] != len(classes) or not len(values):
            raise InputError(
                f"posteriors of {name} have the shape {values.shape}; "
                f"give (frames, {len(classes)} classes)"
            )
    unknown = set(events["event_label"]) - set(classes)
    if unknown:
        raise InputError(f"the reference holds the class {min(unknown)!r}, not in {classes}")
    peaks = np.max([values.max(axis=0) for values in arrays.values()], axis=0)
    present = set(events["event_label"])
    shown = [c for c, peak in zip(classes, peaks) if c in present or peak > shown_above]
    shown = list(show) or shown or [classes[int(peaks.argmax())]]
    unknown = set(shown) - set(classes)
    if unknown:
        raise InputError(f"show names the class {min(unknown)!r}, not in {classes}")

    look = styles(arrays)
    figure = _figure(height=0.7 + 1.05 * len(shown))
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for panel, label in zip(panels, shown):
        for event in events[events["event_label"] == label].itertuples():
            panel.axvspan(event.onset, event.offset, color=SHADE, lw=0, label="reference event")
        panel.axhline(threshold, color="0.4", lw=0.8, ls=(0, (1, 2)), label="threshold")
        for name, values in arrays.items():
            centres = (np.arange(len(values)) + 0.5) * frame_seconds
            panel.plot(centres, values[:, classes.index(label)], label=name, **look[name])
        panel.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
        panel.tick_params(labelsize=8)
        panel.set_title(_readable(label), loc="left", fontsize=9, pad=2)
    frames = max(len(values) for values in arrays.values())
    panels[-1].set_xlim(0, frames * frame_seconds)
    panels[-1].set_xlabel("time (s)", fontsize=9)
    figure.supylabel("posterior", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, horizontalalignment="left")
    _legend(figure)
    return figure


def classwise_f1(
    sets: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    ylabel: str = "event-based F1",
    show: Sequence[str] = (),
) -> Figure:
    """F1 of each class for both models, one panel a set of clips (Figs. 2 and 3a).

    Bars are means over trials, with the standard deviation where there are several; the dashed
    line is the mean over all classes.

    Args:
        sets: F1 in [0, 1] by set and by name of the model: a DataFrame with the classes as its
            index and one column a trial.
        ylabel: which F1 it is.
        show: show these classes and no others; the dashed line stays that of all.

    Raises:
        InputError: a class of `show` is missing.
    """
    if not sets or not all(sets.values()):
        raise InputError("sets is empty; give F1 of at least one model on one set")
    figure = _figure(height=0.9 + 1.9 * len(sets))
    panels = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
    for panel, (title, models) in zip(panels, sets.items()):
        look = styles(models)
        labels = list(show) or list(next(iter(models.values())).index)
        width = 0.8 / len(models)
        for place, (name, table) in enumerate(models.items()):
            missing = set(labels) - set(table.index)
            if missing:
                raise InputError(f"F1 of {name} on {title} lacks the class {min(missing)!r}")
            shown = 100 * table.loc[labels]
            at = np.arange(len(labels)) + (place - (len(models) - 1) / 2) * width
            colour = look[name]["color"]
            panel.bar(
                at,
                shown.mean(axis=1),
                width,
                yerr=shown.std(axis=1) if table.shape[1] > 1 else None,
                error_kw={"lw": 0.8, "capsize": 1.5},
                color=colour,
                edgecolor="black",
                linewidth=0.5,
                # The hatch tells the bars apart in a grey print.
                hatch="////" if place % 2 else None,
                label=name,
            )
            macro = 100 * float(table.stack().mean())
            panel.axhline(macro, color=colour, ls="--", lw=1.1, label=f"{name}, macro")
        panel.set_xticks(np.arange(len(labels)), [_readable(x) for x in labels], fontsize=8)
        panel.tick_params(axis="x", rotation=30 if len(labels) > 4 else 0, length=0)
        for text in panel.get_xticklabels():
            text.set_horizontalalignment("right" if len(labels) > 4 else "center")
            text.set_rotation_mode("anchor")
        panel.tick_params(axis="y", labelsize=8)
        panel.set_title(title, loc="left", fontsize=9, pad=3)
        # Where all bars are 0 there would be no height left.
        panel.set_ylim(0, max(panel.get_ylim()[1], 1))
    figure.supylabel(f"{ylabel} (%)", fontsize=9)
    _legend(figure)
    return figure


def change_histogram(changes: Histogram, *, xlabel: str = "L1 norm of the change of z") -> Figure:
    """Distribution of the change of z inside events (Fig. 3b), with mean and variance.

    Args:
        changes: as :func:`boundaries.histogram` returns it.
        xlabel: what is counted.
    """
    figure = _figure(height=2.8, width=WIDTH * 0.7)
    panel = figure.subplots()
    for name, style in styles(changes.density).items():
        label = f"{name}: mean {changes.mean[name]:.3g}, variance {changes.variance[name]:.3g}"
        panel.stairs(100 * changes.density[name], changes.edges, label=label, **style)
        panel.stairs(
            100 * changes.density[name], changes.edges, fill=True, color=style["color"], alpha=0.15
        )
        panel.axvline(changes.mean[name], color=style["color"], ls=":", lw=1.1)
    panel.set_xlabel(xlabel, fontsize=9)
    panel.set_ylabel("frames inside events (%)", fontsize=9)
    panel.set_xlim(0, changes.edges[-1])
    panel.set_ylim(bottom=0)
    panel.tick_params(labelsize=8)
    panel.legend(fontsize=8, frameon=False)
    return figure


def edge_profiles(
    onset: Profile, offset: Profile, *, tolerance: float = COLLAR, title: str = ""
) -> Figure:
    """Mean posteriors around onsets and offsets (Figs. 4a and 4b), with one standard error.

    Args:
        onset: as :func:`boundaries.profile` returns it.
        offset: the same for offsets.
        tolerance: collar of the event-based F1 in seconds, marked.
        title: for example the class.
    """
    figure = _figure(height=2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (edge, profile) in zip(panels, (("onset", onset), ("offset", offset))):
        panel.axvspan(-tolerance, tolerance, color=SHADE, lw=0, label="tolerance")
        panel.axvline(0, color="0.4", lw=0.8, ls=(0, (1, 2)), label="boundary of the event")
        for name, style in styles(profile.mean).items():
            mean, error = profile.mean[name], profile.standard_error[name]
            panel.fill_between(
                profile.seconds, mean - error, mean + error, color=style["color"], alpha=0.25, lw=0
            )
            panel.plot(profile.seconds, mean, label=name, **style)
        panel.set_title(f"{edge}, {profile.events} events", loc="left", fontsize=9, pad=3)
        panel.set_xlabel(f"time from the {edge} (s)", fontsize=9)
        panel.set_xlim(profile.seconds[0], profile.seconds[-1])
        panel.set_ylim(0, 1)
        panel.tick_params(labelsize=8)
    panels[0].set_ylabel("mean posterior", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, horizontalalignment="left")
    _legend(figure)
    return figure


def edge_error_boxes(errors: Mapping[str, pd.DataFrame], *, tolerance: float = COLLAR) -> Figure:
    """Signed errors of onsets and offsets: median, quartiles, and 5th to 95th percentile.

    Args:
        errors: as :func:`boundaries.edge_errors` returns them, by name of the model.
        tolerance: collar of the event-based F1 in seconds, marked.

    Raises:
        InputError: a model has detected no event.
    """
    for name, table in errors.items():
        if table.empty:
            raise InputError(f"{name} has detected no event; there is no error to show")
    figure = _figure(height=1.3 + 0.35 * len(errors))
    _edge_boxes(figure.subplots(1, 2, sharey=True), errors, tolerance)
    _legend(figure)
    return figure


def error_profiles(
    profiles: Mapping[str, pd.DataFrame],
    errors: Mapping[str, pd.DataFrame] | None = None,
    *,
    official: bool = True,
    tolerance: float = COLLAR,
) -> Figure:
    """What became of the reference events, one bar a system, and signed errors of their edges.

    Args:
        profiles: as :func:`profile.error_profile` returns them, by name of the system.
        errors: as :func:`boundaries.edge_errors` returns them, by name of the system; a system
            that has detected no event has no box.
        official: add a bar of the official baseline on DESED, the yardstick.
        tolerance: collar of the event-based F1 in seconds, marked.

    Raises:
        InputError: there is no profile.
    """
    if not profiles:
        raise InputError("profiles is empty; give the profile of at least one system")
    counts = of_systems(profiles, official=official)
    heights = [0.75 + 0.3 * len(counts)]
    if errors:
        heights.append(0.7 + 0.35 * len(errors))
    figure = _figure(height=sum(heights) + 0.5)
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    panel = figure.add_subplot(grid[0, :])
    shares = 100 * counts[list(OF_REFERENCE)].div(counts["events"].clip(lower=1), axis=0)
    # A gap between the systems and the yardstick.
    at = np.arange(len(counts)) + 0.3 * (counts.index == OFFICIAL)
    left = np.zeros(len(counts))
    for outcome, colour in OUTCOMES.items():
        widths = shares[outcome].to_numpy()
        panel.barh(
            at,
            widths,
            left=left,
            height=0.7,
            color=colour,
            edgecolor="black",
            linewidth=0.5,
            label=readable(outcome),
        )
        for place, start, width in zip(at, left, widths):
            if width >= 3.5:
                panel.text(
                    start + width / 2,
                    place,
                    f"{width:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=ON_COLOUR,
                )
        left += widths
    names = [f"{name}\n{events:,} events" for name, events in counts["events"].items()]
    panel.set_yticks(at, names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.tick_params(axis="x", labelsize=8)
    panel.set_xlabel("reference events (%)", fontsize=9)
    panel.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=len(OUTCOMES),
        frameon=False,
        fontsize=8,
        handlelength=1.2,
        columnspacing=1.2,
    )
    if errors:
        panels = [figure.add_subplot(grid[1, place]) for place in (0, 1)]
        panels[1].sharey(panels[0])
        panels[1].tick_params(labelleft=False)
        panels[0].set_title(
            "median, quartiles, 5th and 95th percentile; shaded: the tolerance",
            loc="left",
            fontsize=8,
        )
        _edge_boxes(panels, errors, tolerance)
    return figure


def _edge_boxes(
    panels: Sequence[Axes], errors: Mapping[str, pd.DataFrame], tolerance: float
) -> None:
    """Boxes of onset errors in one panel and of offset errors in the other, which share y."""
    look = styles(errors)
    for panel, edge in zip(panels, ("onset", "offset")):
        panel.axvspan(-tolerance, tolerance, color=SHADE, lw=0, label="tolerance")
        panel.axvline(0, color="0.4", lw=0.8, ls=(0, (1, 2)))
        for place, (name, table) in enumerate(errors.items()):
            if table.empty:
                continue
            least, low, middle, high, most = table[f"{edge}_error"].quantile(
                [0.05, 0.25, 0.5, 0.75, 0.95]
            )
            panel.hlines(place, least, most, color="black", lw=1, zorder=1.5)
            panel.barh(
                place,
                high - low,
                left=low,
                height=0.55,
                color=look[name]["color"],
                edgecolor="black",
                linewidth=0.8,
                hatch="////" if place % 2 else None,
                zorder=2,
            )
            panel.plot([middle, middle], [place - 0.27, place + 0.27], color="white", lw=3.5)
            panel.plot([middle, middle], [place - 0.27, place + 0.27], color="black", lw=1.6)
        panel.set_yticks(
            np.arange(len(errors)),
            [f"{name}\n{len(table):,} found" for name, table in errors.items()],
            fontsize=8,
        )
        panel.set_ylim(len(errors) - 0.5, -0.5)
        # Most errors lie within the tolerance and a few are of seconds: linear, then logarithmic.
        panel.set_xscale("symlog", linthresh=tolerance, linscale=0.7)
        panel.xaxis.set_major_locator(FixedLocator([-10, -3, -1, -0.2, 0, 0.2, 1, 3, 10]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter("{x:g}")
        panel.tick_params(axis="x", labelsize=8)
        panel.set_xlabel(f"{edge} error (s), late is positive", fontsize=9)


def curves(
    models: Mapping[str, pd.DataFrame], *, panels: Sequence[str], xlabel: str = "epoch"
) -> Figure:
    """Quantities over epochs, one panel each; over more than two decades on a logarithmic axis.

    Args:
        models: by name of the model, a DataFrame with the epoch as its index and the quantities
            as columns; a model may lack some of them, and values may be NaN.
        panels: the columns to show.
        xlabel: what the index counts.

    Raises:
        InputError: no model has a column that is asked for.
    """
    for column in panels:
        if not any(column in table for table in models.values()):
            raise InputError(f"no model has the curve {column!r}")
    rows = -(-len(panels) // 3)
    columns = -(-len(panels) // rows)
    figure = _figure(height=0.4 + 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    look = styles(models)
    for panel, column in zip(axes, panels):
        for name, table in models.items():
            if column in table:
                known = table[column].dropna()
                panel.plot(known.index, known, label=name, **look[name])
        values = np.concatenate([line.get_ydata() for line in panel.get_lines()])
        if values.size and 0 < 100 * values.min() < values.max():
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(column, loc="left", fontsize=9, pad=3)
        panel.set_xlabel(xlabel, fontsize=9)
        panel.tick_params(labelsize=8)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    _legend(figure)
    return figure


def save(figure: Figure, path: os.PathLike | str) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG beside each other.

    Args:
        figure: what to write.
        path: where to, with either suffix or none; the folder is made.

    Returns:
        The two paths, PNG first. The same figure always gives the same SVG.
    """
    path = Path(path)
    if path.suffix in (".png", ".svg"):
        path = path.with_suffix("")
    written = []
    with matplotlib.rc_context({"svg.hashsalt": "dcase_coherence"}), warnings.catch_warnings():
        # A box stands for a character of a name that the font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            target = path.with_name(f"{path.name}.{kind}")
            with whole_file(target) as temporary:
                figure.savefig(temporary, dpi=200, format=kind, metadata=metadata)
            written.append(target)
    return written


def _figure(height: float, width: float = WIDTH) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Line style of each model by name: "baseline" and "coherence" always keep theirs.

    Example:
        >>> {name: style["color"] for name, style in styles(["margin", "coherence"]).items()}
        {'margin': '#0072B2', 'coherence': '#D55E00'}
    """
    names = list(names)
    free = [style for name, style in STYLES.items() if name not in names] or [*STYLES.values()]
    marked = [{**style, "marker": "o", "markersize": 3} for style in free]
    others = itertools.cycle(free + marked)
    return {name: STYLES[name] if name in STYLES else next(others) for name in names}


def _legend(figure: Figure) -> None:
    """One legend below all panels, with every label once."""
    entries: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=min(len(entries), 5),
        frameon=False,
        fontsize=8,
    )


def _readable(label: str) -> str:
    return label.replace("_", " ")


def _one_clip(reference: pd.DataFrame) -> pd.DataFrame:
    """Events of a reference that may hold one clip only."""
    if reference.empty:
        return pd.DataFrame(columns=["filename", "onset", "offset", "event_label"])
    if "filename" not in reference.columns:
        reference = reference.assign(filename="the clip")
    files, events = check_events(reference, "the reference")
    if len(files) > 1:
        raise InputError(f"the reference holds {len(files)} clips; give the rows of one")
    return events
