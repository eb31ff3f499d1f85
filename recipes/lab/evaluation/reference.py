"""The scores of DCASE Task 4 by the libraries that define them, sed_eval and psds_eval.

Slow, and the reference of the fast ones in :mod:`scores`, which every test of a model is held
against where the libraries are installed. They are imported when they are called.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation import metrics
from lab.evaluation.metrics import Scores, scores_from_counts


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


def event_based(
    reference: pd.DataFrame,
    estimated: pd.DataFrame,
    *,
    collar: float = 0.2,
    offset_ratio: float = 0.2,
) -> Scores:
    """Event-based F1: an event counts when label, onset and offset agree.

    Args:
        reference: annotated events; its filenames are the clips that are evaluated.
        estimated: detected events.
        collar: allowed difference of onsets, and of offsets, in seconds.
        offset_ratio: an offset may also be off by this part of the reference event's length.

    Raises:
        InputError: a table cannot be used, or the estimates hold a clip the reference lacks.

    Source: Mesaros, Heittola, Virtanen, "Metrics for polyphonic sound event detection", 2016.
    """
    metrics.check_collar(collar, offset_ratio)
    import sed_eval

    files, references, estimates = metrics.reference_and_estimates(reference, estimated)
    metric = sed_eval.sound_event.EventBasedMetrics(
        event_label_list=sorted({*references["event_label"], *estimates["event_label"]}),
        t_collar=float(collar),
        percentage_of_length=float(offset_ratio),
        empty_system_output_handling="zero_score",
    )
    counts = _sed_eval_counts(metric, files, references, estimates)
    return scores_from_counts(counts, undefined=counts["n_ref"] == 0)


def segment_based(
    reference: pd.DataFrame, estimated: pd.DataFrame, *, resolution: float = 1.0
) -> Scores:
    """Segment-based F1: activity of each class compared in segments of fixed length.

    The official evaluation leaves a class that is never predicted out of the macro average;
    `strict_macro_f1` counts it as 0.

    Args:
        reference: annotated events; its filenames are the clips that are evaluated.
        estimated: detected events.
        resolution: length of a segment in seconds.

    Raises:
        InputError: a table cannot be used, or the estimates hold a clip the reference lacks.

    Source: Mesaros, Heittola, Virtanen, "Metrics for polyphonic sound event detection", 2016.
    """
    if not resolution > 0:
        raise InputError(f"resolution is {resolution}; give a time above 0 seconds")
    import sed_eval

    files, references, estimates = metrics.reference_and_estimates(reference, estimated)
    metric = sed_eval.sound_event.SegmentBasedMetrics(
        event_label_list=sorted({*references["event_label"], *estimates["event_label"]}),
        time_resolution=float(resolution),
    )
    counts = _sed_eval_counts(metric, files, references, estimates)
    return scores_from_counts(counts, undefined=(counts["n_ref"] == 0) | (counts["n_est"] == 0))


def intersection_based(
    reference: pd.DataFrame, estimated: pd.DataFrame, durations: pd.DataFrame
) -> Scores:
    """Intersection-based F1 with dtc = gtc = 0.5 and cttc = 0.3.

    The official evaluation leaves a class without a true positive out of the macro average;
    `strict_macro_f1` counts it as 0.

    Args:
        reference: annotated events.
        estimated: detected events; classes that the reference lacks do not count.
        durations: columns filename and duration (seconds), one row a clip.

    Raises:
        InputError: a table cannot be used, events of one class overlap in a clip, or a clip has
            no duration.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020.
    """
    references, lengths = metrics.reference_and_durations(reference, durations)
    estimates = metrics.detections(estimated, lengths, "the estimates")
    labels = sorted(set(references["event_label"]))
    confusion = np.zeros((len(labels) + 1, len(labels) + 1))
    if not estimates.empty:
        with _quiet():
            evaluator = _evaluator(references, lengths, **metrics.INTERSECTION)
            evaluator.add_operating_point(estimates)
        confusion = evaluator.operating_points["counts"][0]
    counts = pd.DataFrame(
        {
            "n_ref": references["event_label"].value_counts().reindex(labels),
            "n_est": estimates["event_label"].value_counts().reindex(labels, fill_value=0),
            "tp": np.diag(confusion)[:-1],
            "fp": confusion[:-1, -1],
        },
        index=labels,
    )
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
        scenario: 1 (fast reaction: dtc = gtc = 0.7) or 2 (no confusion: dtc = gtc = 0.1,
            cttc = 0.3, alpha_ct = 0.5); both with alpha_st = 1 and at most 100 effective false
            positives an hour.

    Returns:
        PSDS in [0, 1]; 0.0 when nothing is detected at any threshold.

    Raises:
        InputError: a table cannot be used, events of one class overlap in a clip, a clip has no
            duration, or there is no operating point.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", 2020.
    """
    criteria, weights = metrics.scenario_settings(scenario)
    if not operating_points:
        raise InputError("operating_points is empty; give detections for at least one threshold")
    references, lengths = metrics.reference_and_durations(reference, durations)
    with _quiet():
        evaluator = _evaluator(references, lengths, **criteria)
        for threshold, table in operating_points.items():
            found = metrics.detections(table, lengths, f"the estimates at threshold {threshold}")
            # No detection is the point (0, 0), which every curve holds already.
            if not found.empty:
                evaluator.add_operating_point(found)
        if not evaluator.num_operating_points():
            return 0.0
        if len(evaluator.class_names) == 2:
            # One class beside the "world": there is nothing to take it for, so no cross-trigger;
            # psds_eval would average over none of them and return NaN.
            points = evaluator.operating_points
            points["ctr"] = [np.zeros((1, 1)) for _ in range(len(points))]
        return float(evaluator.psds(max_efpr=metrics.MAX_EFPR, **weights).value)


def _sed_eval_counts(
    metric: Any,
    files: Sequence[str],
    references: pd.DataFrame,
    estimates: pd.DataFrame,
) -> pd.DataFrame:
    """Counts of each class after sed_eval has seen every clip."""
    groups = [
        {name: rows.to_dict("records") for name, rows in table.groupby("filename", sort=False)}
        for table in (references, estimates)
    ]
    for name in files:
        metric.evaluate(
            reference_event_list=groups[0].get(name, []),
            estimated_event_list=groups[1].get(name, []),
        )
    names = {"Nref": "n_ref", "Nsys": "n_est", "Ntp": "tp", "Nfp": "fp"}
    return pd.DataFrame(
        [[counts[key] for key in names] for counts in metric.class_wise.values()],
        index=list(metric.class_wise),
        columns=list(names.values()),
    )


def _evaluator(
    references: pd.DataFrame, lengths: pd.DataFrame, *, dtc: float, gtc: float, cttc: float
) -> Any:
    import psds_eval

    return psds_eval.PSDSEval(
        ground_truth=references,
        metadata=lengths,
        dtc_threshold=dtc,
        gtc_threshold=gtc,
        cttc_threshold=cttc,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what psds_eval 0.5.3 makes pandas and numpy say about its own code.

    Deprecated calls, means over classes that cannot be cross-triggers, and thresholds that give
    the same metrics.detections twice: none of it changes a value.
    """
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message="A similar operating point exists")
        yield
