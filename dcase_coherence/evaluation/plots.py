"""Figures. Each function returns a matplotlib Figure; :func:`save` writes it as PNG and SVG.

No pyplot, so no global state: figures can be made in threads, in servers and without a display.
The two models keep their colour and line in every figure (Okabe and Ito's palette, told apart
by colour-blind people and, by the line, in a grey print).
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dcase_coherence.errors import InputError
from dcase_coherence.evaluation.metrics import events_of
from dcase_coherence.files import whole_file

#: Colour and line of the two models, then of any others in the order they come.
STYLES: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#0072B2", "linestyle": (0, (3, 1)), "linewidth": 1.4},
    "coherence": {"color": "#D55E00", "linestyle": "-", "linewidth": 1.4},
    "third": {"color": "#009E73", "linestyle": "-.", "linewidth": 1.4},
    "fourth": {"color": "#CC79A7", "linestyle": ":", "linewidth": 1.4},
    "fifth": {"color": "#E69F00", "linestyle": (0, (6, 1, 1, 1)), "linewidth": 1.4},
}
SHADE = "#D9D9D9"
WIDTH = 7.0  # inches: two columns of a paper


def posteriors(
    models: Mapping[str, np.ndarray],
    reference: pd.DataFrame,
    classes: Sequence[str],
    *,
    frame_seconds: float,
    threshold: float = 0.5,
    shown_above: float = 0.3,
    title: str = "",
) -> Figure:
    """Posteriors of one clip against its reference events, one panel a class.

    Shows the classes of the reference and those that a model takes for present somewhere.

    Args:
        models: posteriors `(frames, classes)` by name of the model ("baseline", "coherence").
        reference: annotated events of this clip (onset, offset in seconds, event_label).
        classes: class names, in the order of the last axis.
        frame_seconds: time from one frame to the next.
        threshold: decision threshold, drawn as a line.
        shown_above: a class that the reference lacks is shown when a posterior exceeds this.
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
    shown = shown or [classes[int(peaks.argmax())]]

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
    with matplotlib.rc_context({"svg.hashsalt": "dcase_coherence"}):
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
    free = [style for name, style in STYLES.items() if name not in names]
    others = itertools.cycle(free or list(STYLES.values()))
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
        ncols=len(entries),
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
    files, events = events_of(reference, "the reference")
    if len(files) > 1:
        raise InputError(f"the reference holds {len(files)} clips; give the rows of one")
    return events
