"""What became of the events of trials, from their scores and from what their tests wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.data.annotations import read_events
from lab.evaluation.boundaries import edge_errors
from lab.evaluation.posteriors import load_posteriors
from lab.evaluation.profile import ALL, pooled
from lab.evaluation.scores import Scorer


def profile_of_scores(scores: Sequence[Mapping[str, float]], model: str) -> pd.DataFrame:
    """Profile over all classes, summed over trials, of their scores by their logged names."""
    start = f"test/{model}/profile/"
    counts = [
        {name[len(start) :]: int(n) for name, n in one.items() if name.startswith(start)}
        for one in scores
    ]
    return pooled([pd.DataFrame(one, index=[ALL]) for one in counts])


def errors_of_trials(
    folders: Sequence[Path], model: str, reference: pd.DataFrame
) -> pd.DataFrame | None:
    """Errors of the edges at threshold 0.5 of trials that have left detections; None without any.

    Clips of the annotated `reference` that were not tested do not count.
    """
    here = [folder for folder in folders if has_detections(folder, model)]
    errors = [edge_errors(*events_of_test(folder, model, reference)) for folder in here]
    return pd.concat(errors, ignore_index=True) if errors else None


def counts_of_trials(
    folders: Sequence[Path], model: str, reference: pd.DataFrame, classes: Sequence[str]
) -> np.ndarray:
    """Event-based counts `(trials, clips, classes, 3)` for :func:`significance.paired_bootstrap`.

    Clips of the annotated `reference` that were not tested do not count.
    """
    counts = []
    for folder in folders:
        known, estimated = events_of_test(folder, model, reference)
        counts.append(Scorer(known, classes=classes).event_counts(estimated))
    return np.stack(counts)


def has_detections(folder: Path, model: str) -> bool:
    """Whether a test has left here what a model detected; of other machines there are scores."""
    return (folder / "metrics_test" / model / "posteriors.npz").exists()


def events_of_test(
    folder: Path, model: str, reference: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events of the clips that a trial was tested on: annotated, and detected by a model."""
    place = folder / "metrics_test" / model
    clips, _ = load_posteriors(place / "posteriors.npz")
    known = reference[reference["filename"].isin(list(clips))]
    return known, read_events(place / f"predictions_05_{model}.tsv")
