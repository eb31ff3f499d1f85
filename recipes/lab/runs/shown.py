"""The clip that the results of several trials show: the posteriors of each model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from lab.data.annotations import read_events, read_reference
from lab.data.labels import make_encoder
from lab.errors import InputError
from lab.evaluation import plots
from lab.evaluation.posteriors import load_posteriors


def draw_clip(folders: Mapping[str, Path], model: str, config: Mapping[str, Any]) -> Figure:
    """Choose a clip of the test set that shows what the models detect, and draw it (Fig. 4c).

    Args:
        folders: of a finished trial, by name of the system.
        model: "teacher" or "student".
        config: of the trials.

    Raises:
        InputError: a test has left no detections or no posteriors, or tested no event.
    """
    data = config["data"]
    posteriors, estimates = {}, []
    for system, folder in folders.items():
        place = folder / "metrics_test" / model
        posteriors[system], classes = load_posteriors(place / "posteriors.npz")
        estimates.append(read_events(place / f"predictions_05_{model}.tsv"))
    reference = read_reference(data["test_tsv"], data.get("classes"))
    tested = next(iter(posteriors.values()))
    name = clip_to_show(reference[reference["filename"].isin(list(tested))], estimates)
    return plots.posteriors(
        {system: clips[name] for system, clips in posteriors.items()},
        reference[reference["filename"] == name],
        classes,
        frame_seconds=make_encoder(config).frame_seconds,
        audio=Path(data["test_folder"], name),
        title=name,
    )


def clip_to_show(reference: pd.DataFrame, estimates: Sequence[pd.DataFrame]) -> str:
    """The clip of which all models find the most events, less those that one of them misses.

    An event of the reference is found where an estimated one of its class overlaps it; each model
    has a table of estimates.

    Raises:
        InputError: the clips hold no event.
    """
    events = reference.dropna(subset=["event_label"]).reset_index(names="event")
    if events.empty:
        raise InputError("the clips that were tested hold no event")
    counts = pd.Series(0, index=events.index)
    for estimated in estimates:
        pairs = events.merge(estimated, on=["filename", "event_label"], suffixes=("", "_found"))
        overlap = pairs.query("onset_found < offset and offset_found > onset")
        counts += events["event"].isin(overlap["event"])
    gains = (counts == len(estimates)).map({True: 1, False: -1})
    return gains.groupby(events["filename"]).sum().idxmax()
