"""Figures. Each function returns a matplotlib Figure; :func:`save` writes it as PNG and SVG.

No pyplot, so no global state: figures can be made in threads, in servers and without a display.
The two models keep their colour and line in every figure (Okabe and Ito's palette, told apart
by colour-blind people and, by the line, in a grey print). All text is shown as it is: a $ in the
name of a file or class begins no formula.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from lab.errors import InputError
from lab.evaluation.boundaries import Profile
from lab.evaluation.metrics import COLLAR
from lab.evaluation.profile import OF_REFERENCE, OFFICIAL, of_systems, readable
from lab.evaluation.sound import read_sound, spectrogram
from lab.evaluation.tables import scale_of
from lab.files import PathLike, whole_file

matplotlib.rcParams.update(
    {
        "text.parse_math": False,
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.titlepad": 3,
        "axes.labelsize": 9,
        "figure.titlesize": 9,
        "figure.labelsize": 9,
        "legend.fontsize": 8,
        "legend.frameon": False,
    }
)

#: Colour and line of the two models, then of any others in the order they come.
STYLES: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#0072B2", "linestyle": (0, (3, 1)), "linewidth": 1.4},
    "coherence": {"color": "#D55E00", "linestyle": "-", "linewidth": 1.4},
    "third": {"color": "#009E73", "linestyle": "-.", "linewidth": 1.4},
    "fourth": {"color": "#CC79A7", "linestyle": ":", "linewidth": 1.4},
    "fifth": {"color": "#E69F00", "linestyle": (0, (6, 1, 1, 1)), "linewidth": 1.4},
}
SHADE = "#D9D9D9"
#: Line of a threshold or a boundary.
MARK: dict[str, Any] = {"color": "0.4", "lw": 0.8, "ls": (0, (1, 2))}
#: Colours of what became of reference events, none of them that of a model: found, found with a
#: wrong edge, lost.
OUTCOMES = dict(
    zip(OF_REFERENCE, ("#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#CFCFCF"))
)
WIDTH = 7.0  # inches: two columns of a paper
#: A class without events is shown when its posterior exceeds this somewhere.
SHOWN_ABOVE = 0.3


def posteriors(
    models: Mapping[str, np.ndarray],
    reference: pd.DataFrame,
    classes: Sequence[str],
    *,
    frame_seconds: float,
    audio: PathLike | None = None,
    threshold: float = 0.5,
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
        audio: of the clip: its spectrogram is drawn above, where the file can be read and lasts
            at most ten minutes.
        threshold: decision threshold, drawn as a line.
        show: show these classes and no others.
        title: for example the name of the clip.
    """
    peaks = pd.Series(np.max([values.max(axis=0) for values in models.values()], axis=0), classes)
    present = set() if reference.empty else set(reference["event_label"].dropna())
    shown = list(show) or [c for c in classes if c in present or peaks[c] > SHOWN_ABOVE]
    shown = shown or [peaks.idxmax()]

    sound = None
    if audio is not None:
        with contextlib.suppress(InputError):
            sound = read_sound(audio)
    heights = [1.3] * (sound is not None) + [1.05] * len(shown)
    figure = _figure(height=0.7 + sum(heights))
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if sound is not None:
        times, frequencies, level = spectrogram(sound)
        extent = (times[0], times[-1], 0, (frequencies[0] + frequencies[-1]) / 1000)
        panels[0].imshow(level, cmap="Greys", origin="lower", aspect="auto", extent=extent)
        panels[0].set_ylabel("kHz")
    for panel, label in zip(panels[-len(shown) :], shown):
        for event in reference[reference["event_label"] == label].itertuples() if present else ():
            panel.axvspan(event.onset, event.offset, color=SHADE, lw=0, label="reference event")
        panel.axhline(threshold, label="threshold", **MARK)
        for (name, values), style in zip(models.items(), styles(models).values()):
            centres = (np.arange(len(values)) + 0.5) * frame_seconds
            panel.plot(centres, values[:, list(classes).index(label)], label=name, **style)
        panel.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1], ylabel="posterior")
        panel.set_title(_readable(label))
    frames = max(map(len, models.values()))
    panels[-1].set(xlim=(0, frames * frame_seconds), xlabel="time (s)")
    figure.suptitle(title, x=0.01, horizontalalignment="left")
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
    figure = _figure(height=0.9 + 1.9 * len(sets))
    panels = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
    for panel, (title, models) in zip(panels, sets.items()):
        labels = list(show) or list(next(iter(models.values())).index)
        width = 0.8 / len(models)
        for place, (name, table) in enumerate(models.items()):
            missing = set(labels) - set(table.index)
            if missing:
                raise InputError(f"F1 of {name} on {title} lacks the class {min(missing)!r}")
            shown = 100 * table.loc[labels]
            colour = styles(models)[name]["color"]
            panel.bar(
                np.arange(len(labels)) + (place - (len(models) - 1) / 2) * width,
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
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        names = [_readable(label) for label in labels]
        panel.set_xticks(np.arange(len(labels)), names, **(turned if len(labels) > 4 else {}))
        panel.tick_params(axis="x", length=0)
        panel.set_title(title)
        # Where all bars are 0 there would be no height left.
        panel.set_ylim(0, max(panel.get_ylim()[1], 1))
    figure.supylabel(f"{ylabel} (%)")
    _legend(figure)
    return figure


def change_histogram(changes: Mapping[str, np.ndarray], *, xlabel: str) -> Figure:
    """Distribution of the change of z inside events (Fig. 3b), with mean and variance.

    Args:
        changes: as :func:`boundaries.inside_change` returns them, by name of the model; shown up
            to the 99.5th percentile of all.
        xlabel: what is counted.
    """
    figure = _figure(height=2.8, width=WIDTH * 0.7)
    panel = figure.subplots()
    edges = np.linspace(0, np.quantile(np.concatenate([*changes.values()]), 0.995) or 1.0, 61)
    for (name, values), style in zip(changes.items(), styles(changes).values()):
        share = 100 * np.histogram(values, edges)[0] / len(values)
        label = f"{name}: mean {np.mean(values):.3g}, variance {np.var(values):.3g}"
        panel.stairs(share, edges, label=label, **style)
        panel.stairs(share, edges, fill=True, color=style["color"], alpha=0.15)
        panel.axvline(np.mean(values), color=style["color"], ls=":", lw=1.1)
    panel.set(xlabel=xlabel, ylabel="frames inside events (%)", xlim=(0, edges[-1]))
    panel.set_ylim(bottom=0)
    panel.legend()
    return figure


def edge_profiles(onset: Profile, offset: Profile) -> Figure:
    """Mean posteriors around onsets and offsets (Figs. 4a and 4b), with one standard error.

    Args:
        onset: as :func:`boundaries.profile` returns it.
        offset: the same for offsets.
    """
    figure = _figure(height=2.9)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (edge, profile) in zip(panels, (("onset", onset), ("offset", offset))):
        panel.axvspan(-COLLAR, COLLAR, color=SHADE, lw=0, label="tolerance")
        panel.axvline(0, label="boundary of the event", **MARK)
        for name, style in styles(profile.mean).items():
            mean, error = profile.mean[name], profile.standard_error[name]
            panel.fill_between(
                profile.seconds, mean - error, mean + error, color=style["color"], alpha=0.25, lw=0
            )
            panel.plot(profile.seconds, mean, label=name, **style)
        panel.set_title(f"{edge}, {profile.events} events")
        panel.set_xlabel(f"time from the {edge} (s)")
        panel.set(xlim=(profile.seconds[0], profile.seconds[-1]), ylim=(0, 1))
    panels[0].set_ylabel("mean posterior")
    _legend(figure)
    return figure


def error_profiles(
    profiles: Mapping[str, pd.DataFrame],
    errors: Mapping[str, pd.DataFrame] | None = None,
    *,
    official: bool = True,
) -> Figure:
    """What became of the reference events, one bar a system, and signed errors of their edges.

    Args:
        profiles: as :func:`profile.error_profile` returns them, by name of the system.
        errors: as :func:`boundaries.edge_errors` returns them, by name of the system; a system
            that has detected no event has no box.
        official: add a bar of the official baseline on DESED, the yardstick.
    """
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
        bars = panel.barh(
            at,
            widths,
            left=left,
            height=0.7,
            color=colour,
            edgecolor="black",
            linewidth=0.5,
            label=readable(outcome),
        )
        numbers = [f"{width:.0f}" if width >= 3.5 else "" for width in widths]
        panel.bar_label(bars, numbers, label_type="center", color="#1A1A1A")
        left += widths
    panel.set_yticks(at, [f"{name}\n{n:,} events" for name, n in counts["events"].items()])
    panel.invert_yaxis()
    panel.set(xlim=(0, 100), xlabel="reference events (%)")
    panel.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=len(OUTCOMES),
        handlelength=1.2,
        columnspacing=1.2,
    )
    if errors:
        panels = [figure.add_subplot(grid[1, place]) for place in (0, 1)]
        panels[0].set_title(
            "median, quartiles, 5th and 95th percentile; shaded: the tolerance", fontsize=8
        )
        for panel, edge in zip(panels, ("onset", "offset")):
            _edge_boxes(panel, {n: table[f"{edge}_error"] for n, table in errors.items()})
            panel.set_xlabel(f"{edge} error (s), late is positive")
        panels[1].tick_params(labelleft=False)
    return figure


def _edge_boxes(panel: Axes, errors: Mapping[str, pd.Series]) -> None:
    """Boxes of the errors of one kind of edge, one a system."""
    panel.axvspan(-COLLAR, COLLAR, color=SHADE, lw=0)
    panel.axvline(0, **MARK)
    halo = [withStroke(linewidth=3.5, foreground="white")]
    drawn = panel.boxplot(
        [*errors.values()],
        orientation="horizontal",
        whis=(5, 95),
        widths=0.55,
        showcaps=False,
        showfliers=False,
        patch_artist=True,
        tick_labels=[f"{name}\n{len(one):,} found" for name, one in errors.items()],
        medianprops={"color": "black", "linewidth": 1.6, "path_effects": halo},
    )
    for place, (box, style) in enumerate(zip(drawn["boxes"], styles(errors).values())):
        box.set(facecolor=style["color"], hatch="////" if place % 2 else None)
    panel.invert_yaxis()
    # Most errors lie within the tolerance and a few are of seconds: linear, then logarithmic.
    panel.set_xscale("symlog", linthresh=COLLAR, linscale=0.7)
    panel.xaxis.set_major_locator(FixedLocator([-10, -3, -1, -0.2, 0, 0.2, 1, 3, 10]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:g}")


def curves(models: Mapping[str, pd.DataFrame], *, panels: Sequence[str]) -> Figure:
    """Quantities over epochs, one panel each; over more than two decades on a logarithmic axis.

    Args:
        models: by name of the model, a DataFrame with the epoch as its index and the quantities
            as columns; a model may lack some of them, and values may be NaN.
        panels: the columns to show; those with a % in their names are scores in [0, 1].
    """
    rows = -(-len(panels) // 3)
    columns = -(-len(panels) // rows)
    figure = _figure(height=0.4 + 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    look = styles(models)
    for panel, column in zip(axes, panels):
        scale, _ = scale_of(column)
        for name, table in models.items():
            if column in table:
                known = scale * table[column].dropna()
                panel.plot(known.index, known, label=name, **look[name])
        values = np.concatenate([line.get_ydata() for line in panel.get_lines()])
        if values.size and 0 < 100 * values.min() < values.max():
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        panel.set_title(column)
        panel.set_xlabel("epoch")
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    _legend(figure)
    return figure


def save(figure: Figure, path: PathLike) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG beside each other.

    Args:
        figure: what to write.
        path: where to, with either suffix or none; the folder is made.

    Returns:
        The two paths, PNG first. The same figure gives the same PNG.
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
            figure.set_layout_engine("none")  # it stays, and need not be found again
    return written


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


def _figure(height: float, width: float = WIDTH) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


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
    )


def _readable(label: str) -> str:
    return label.replace("_", " ")
