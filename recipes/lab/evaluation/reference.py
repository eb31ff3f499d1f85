"""The scores of DCASE Task 4 by the libraries that define them, sed_eval and psds_eval.

Slow, and the reference of the fast ones in :mod:`scores`, which every test of a model is held
against where the libraries are installed. They are imported when they are called, with tables that
a :class:`scores.Scorer` has taken.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, Mapping

import numpy as np
import pandas as pd

from lab.evaluation import metrics
from lab.evaluation.metrics import Scores, scores_from_counts

#: In front of the name of each class: sed_eval takes "none" for no class, and psds_eval has a
#: class of its own.
PREFIX = "class "


def missing() -> str:
    """Why the libraries cannot be used, in words; empty where they can."""
    # pkg_resources, which sed_eval imports, was a part of setuptools until 81.
    for name in ("sed_eval", "psds_eval", "pkg_resources"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    for library, first in ((np, (2, 4)), (pd, (3, 0))):
        release = library.__version__
        if tuple(int(part) for part in release.split(".")[:2]) >= first:
            return f"psds_eval does not run on {library.__name__} {release}"
    return ""


def event_based(reference: pd.DataFrame, estimated: pd.DataFrame) -> Scores:
    """Event-based F1: an event counts when label, onset and offset agree (200 ms, 20 %).

    The filenames of the reference are the clips that are evaluated.

    Source: Mesaros, Heittola, Virtanen, "Metrics for polyphonic sound event detection", 2016.
    """
    counts = _sed_eval_counts(
        "EventBasedMetrics",
        reference,
        estimated,
        t_collar=metrics.COLLAR,
        percentage_of_length=metrics.OFFSET_RATIO,
        empty_system_output_handling="zero_score",
    )
    return scores_from_counts(counts, undefined=counts["n_ref"] == 0)


def segment_based(reference: pd.DataFrame, estimated: pd.DataFrame) -> Scores:
    """Segment-based F1: activity of each class compared in segments of a second.

    The official evaluation leaves a class that is never predicted out of the macro average;
    `strict_macro_f1` counts it as 0. Source as of :func:`event_based`.
    """
    counts = _sed_eval_counts("SegmentBasedMetrics", reference, estimated, time_resolution=1.0)
    return scores_from_counts(counts, undefined=(counts["n_ref"] == 0) | (counts["n_est"] == 0))


def intersection_based(
    reference: pd.DataFrame, estimated: pd.DataFrame, durations: pd.DataFrame
) -> Scores:
    """Intersection-based F1 with dtc = gtc = 0.5 and cttc = 0.3.

    Classes that the reference lacks do not count. The official evaluation leaves a class without a
    true positive out of the macro average; `strict_macro_f1` counts it as 0.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020.
    """
    evaluator = _evaluate([estimated], reference, durations, metrics.INTERSECTION)
    references, estimates = (_solid(table)["event_label"] for table in (reference, estimated))
    labels = sorted(set(references))
    confusion = np.zeros((len(labels) + 1, len(labels) + 1))
    if evaluator.num_operating_points():
        confusion = evaluator.operating_points["counts"][0]
    counts = pd.DataFrame(
        {
            "n_ref": references.value_counts().reindex(labels),
            "n_est": estimates.value_counts().reindex(labels, fill_value=0),
            "tp": np.diag(confusion)[:-1],
            "fp": confusion[:-1, -1],
        },
        index=labels,
    ).rename(index=lambda label: label[len(PREFIX) :])
    return scores_from_counts(counts, undefined=counts["tp"] == 0)


def psds(
    operating_points: Mapping[float, pd.DataFrame],
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    *,
    scenario: int,
) -> float:
    """Polyphonic sound detection score of DCASE 2021 Task 4, from finitely many thresholds.

    Args:
        operating_points: detected events for each threshold; classes that the reference lacks do
            not count.
        reference: annotated events.
        durations: columns filename and duration (seconds), one row a clip.
        scenario: a key of :data:`metrics.SCENARIOS`.

    Returns:
        PSDS in [0, 1]; 0.0 when nothing is detected at any threshold.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020.
    """
    criteria, weights = metrics.SCENARIOS[scenario]
    evaluator = _evaluate(operating_points.values(), reference, durations, criteria)
    if not evaluator.num_operating_points():
        return 0.0
    if len(evaluator.class_names) == 2:
        # One class beside the "world": there is nothing to take it for, so no cross-trigger;
        # psds_eval would average over none of them and return NaN.
        curve = evaluator.operating_points
        curve["ctr"] = [np.zeros((1, 1)) for _ in range(len(curve))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(evaluator.psds(max_efpr=metrics.MAX_EFPR, **weights).value)


def _events(table: pd.DataFrame) -> pd.DataFrame:
    """Events of a table, with :data:`PREFIX` before their classes."""
    _, events = metrics.split(table)
    return events.assign(event_label=PREFIX + events["event_label"].astype(str))


def _solid(table: pd.DataFrame) -> pd.DataFrame:
    """Events longer than zero seconds, for others nothing can intersect."""
    return _events(table).query("onset < offset").reset_index(drop=True)


def _sed_eval_counts(
    kind: str, reference: pd.DataFrame, estimated: pd.DataFrame, **settings: Any
) -> pd.DataFrame:
    """Counts of each class after sed_eval has seen every clip."""
    import sed_eval

    tables = [_events(reference), _events(estimated)]
    labels = sorted(set(pd.concat(tables)["event_label"]))
    metric = getattr(sed_eval.sound_event, kind)(event_label_list=labels, **settings)
    by_clip = [
        {name: rows.to_dict("records") for name, rows in table.groupby("filename")}
        for table in tables
    ]
    for name in reference["filename"].unique():
        metric.evaluate(*(events.get(name, []) for events in by_clip))
    counts = pd.DataFrame.from_dict(metric.class_wise, orient="index")
    counts = counts.rename(columns={"Nref": "n_ref", "Nsys": "n_est", "Ntp": "tp", "Nfp": "fp"})
    return counts.rename(index=lambda label: label[len(PREFIX) :])


def _evaluate(
    points: Any, reference: pd.DataFrame, durations: pd.DataFrame, criteria: Mapping[str, float]
) -> Any:
    """The evaluator of psds_eval after it has seen detections at every operating point.

    What psds_eval 0.5.3 makes pandas and numpy say about its own code is hidden: deprecated calls,
    means over no class, and operating points that are alike. None of it changes a value.
    """
    import psds_eval

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = psds_eval.PSDSEval(
            ground_truth=_solid(reference),
            metadata=durations[["filename", "duration"]],
            **{f"{name}_threshold": value for name, value in criteria.items()},
        )
        for estimates in map(_solid, points):
            # No detection is the point (0, 0), which every curve holds already.
            if not estimates.empty:
                evaluator.add_operating_point(estimates)
    return evaluator
