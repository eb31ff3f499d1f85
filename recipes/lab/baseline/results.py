"""Scores of a validation and of a test, and the files that a test leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pandas as pd

from lab.data.annotations import read_durations, read_reference
from lab.data.labels import ManyHotEncoder
from lab.evaluation import reference
from lab.evaluation.posteriors import Posteriors, WeakScore, write_detections
from lab.evaluation.profile import ALL, error_profile
from lab.evaluation.scores import Evaluation, Scorer
from lab.evaluation.thresholds import GRID, Thresholds, choose_thresholds, threshold_scores
from lab.files import write_whole

#: Largest difference between a fast score and that of the library which defines it.
TOLERANCE = 1e-6


def validation_scores(
    config: Mapping[str, Any],
    encoder: ManyHotEncoder,
    strong: Mapping[str, Posteriors],
    weak: Mapping[str, WeakScore],
) -> dict[str, float]:
    """Scores of an epoch by their logged names; `val/obj_metric` is what checkpoints are chosen by.

    `strong` are the posteriors of each model on the strongly labelled clips, `weak` its scores on
    the weakly labelled ones.
    """
    data, training = config["data"], config["training"]
    truth = read_reference(data["synth_val_tsv"], encoder.labels)
    scorer = Scorer(truth, read_durations(data["synth_val_dur"]), encoder.labels)
    scores = {}
    objective = 0.0
    for name, clips in strong.items():
        events = clips.decode(encoder, training["val_thresholds"], training["median_window"])
        intersection = float(
            np.mean([scorer.intersection_based(table).macro_f1 for table in events.values()])
        )
        event = scorer.event_based(events[0.5]).macro_f1
        scores[f"val/synth/{name}/intersection_f1_macro"] = intersection
        scores[f"val/synth/{name}/event_f1_macro"] = event
        tags = 0.0
        if training["batch_size"][1]:
            tags = weak[name].macro_f1()
            scores[f"val/weak/{name}/macro_F1"] = tags
        if name == ("teacher" if training.get("teacher") == "average" else "student"):
            by_event = training.get("obj_metric_synth_type") == "event"
            objective = tags + (event if by_event else intersection)
    return {**scores, "val/obj_metric": objective}


def validation_thresholds(
    config: Mapping[str, Any], encoder: ManyHotEncoder, strong: Mapping[str, Posteriors]
) -> dict[str, Thresholds]:
    """Thresholds that the strong validation clips choose, by model; see :func:`validation_scores`.

    None where there are no such clips, or where they are the test clips.
    """
    data, training = config["data"], config["training"]
    if training.get("select_on") == "test":
        return {}
    truth = read_reference(data["synth_val_tsv"], encoder.labels)
    scorer = Scorer(truth, read_durations(data["synth_val_dur"]), encoder.labels)
    return {
        name: choose_thresholds(clips.decode(encoder, GRID, training["median_window"]), scorer)
        for name, clips in strong.items()
        if clips.filenames
    }


def thresholds_of(config: Mapping[str, Any]) -> list[float]:
    """Operating points of a test, evenly spaced in (0, 1)."""
    count = config["training"]["n_test_thresholds"]
    return list(np.arange(1 / (count * 2), 1, 1 / count))


def write_test(
    folder: Path,
    config: Mapping[str, Any],
    encoder: ManyHotEncoder,
    posteriors: Mapping[str, Posteriors],
    *,
    labelled: bool = True,
    verify_psds: bool = False,
    thresholds: Mapping[str, Thresholds] | None = None,
) -> dict[str, float]:
    """Write posteriors and detections, score them, and write the scores.

    In the folder: `metrics.json` and, in `student` and `teacher`, `posteriors.npz`,
    `predictions_05_<name>.tsv` and `predictions_th_<threshold>.tsv`.

    Args:
        folder: of the files.
        config: of the training.
        encoder: frames and classes of the posteriors.
        posteriors: of each model on the test clips.
        labelled: False for clips without labels: there are no scores then.
        verify_psds: :func:`verify` the PSDS, too, which takes psds_eval minutes.
        thresholds: that the validation clips of each model chose; scores at them are added.

    Returns:
        Scores and, under `profile`, counts of the error profile, by their logged names.
    """
    data, window = config["data"], config["training"]["median_window"]
    results: dict[str, float] = {}
    for name, clips in posteriors.items():
        events = clips.decode(encoder, [0.5], window)[0.5]
        points = clips.decode(encoder, thresholds_of(config), window)
        clips.save(folder / name / "posteriors.npz", encoder, window)
        write_detections(folder / name, name, events, points)
        if labelled:
            truth = read_reference(data["test_tsv"], encoder.labels)
            durations = read_durations(data["test_dur"])
            scorer = Scorer(truth, durations, encoder.labels)
            scores = scorer.evaluate(events, points)
            if not reference.missing():
                verify(scores, truth, durations, events, points if verify_psds else None)
            results.update({f"test/{name}/{k}": value for k, value in scores.summary().items()})
            if thresholds and name in thresholds:
                grid = clips.decode(encoder, GRID, window)
                chosen = threshold_scores(grid, scorer, thresholds[name])
                results.update({f"test/{name}/{key}": value for key, value in chosen.items()})
            counts = error_profile(truth, events).loc[ALL]
            results.update({f"test/{name}/profile/{k}": float(n) for k, n in counts.items()})
    if not labelled:
        return {}
    results["hp_metric"] = max(results[f"test/student/psds_score_scenario{n}"] for n in (1, 2))
    write_whole(folder / "metrics.json", json.dumps(results, indent=2) + "\n")
    return results


def verify(
    scores: Evaluation,
    truth: pd.DataFrame,
    durations: pd.DataFrame,
    events: pd.DataFrame,
    points: Mapping[float, pd.DataFrame] | None = None,
) -> None:
    """Hold scores against sed_eval and, given the operating points, psds_eval, which define them.

    Raises:
        RuntimeError: a score differs by more than 1e-6.
    """
    expected = {
        "event": reference.event_based(truth, events),
        "segment": reference.segment_based(truth, events),
        "intersection": reference.intersection_based(truth, events, durations),
    }
    pairs = {
        f"{kind} {f1}": (getattr(getattr(scores, kind), f1), getattr(official, f1))
        for kind, official in expected.items()
        for f1 in ("macro_f1", "micro_f1")
    }
    if points is not None:
        for scenario, value in ((1, scores.psds1), (2, scores.psds2)):
            by_library = reference.psds(points, truth, durations, scenario=scenario)
            pairs[f"PSDS {scenario}"] = (value, by_library)
    for name, (ours, theirs) in pairs.items():
        if abs(ours - theirs) > TOLERANCE:
            raise RuntimeError(
                f"{name} is {ours:.8f} here and {theirs:.8f} by the official library: a fault of "
                "this package or of the library's version; please report it with the detections"
            )
