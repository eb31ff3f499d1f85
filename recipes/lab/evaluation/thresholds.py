"""Thresholds that validation clips choose: one for all classes, and one a class.

Scores at them do not hang on where a model's posteriors lie, as those at 0.5 do.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

import numpy as np
import pandas as pd

from lab.evaluation.scores import Scorer

#: Thresholds to choose from.
GRID = [round(0.05 * step, 2) for step in range(1, 20)]


class Thresholds(NamedTuple):
    """What validation clips chose.

    Attributes:
        shared: with the best macro event F1.
        by_class: with the best event F1 of each class.
    """

    shared: float
    by_class: dict[str, float]


def choose_thresholds(events: Mapping[float, pd.DataFrame], scorer: Scorer) -> Thresholds:
    """Thresholds with the best event F1 on validation clips; of equal ones that nearest to 0.5.

    Args:
        events: detections on the validation clips at each threshold.
        scorer: of the validation clips.
    """
    order = sorted(events, key=lambda threshold: abs(threshold - 0.5))
    scores = [scorer.event_based(events[threshold]) for threshold in order]
    f1 = pd.DataFrame([one.classwise["f1"] for one in scores]).reindex(columns=scorer.classes)
    best = f1.fillna(0.0).to_numpy().argmax(axis=0)
    return Thresholds(
        order[int(np.argmax([one.macro_f1 for one in scores]))],
        {label: order[place] for label, place in zip(scorer.classes, best)},
    )


def threshold_scores(
    events: Mapping[float, pd.DataFrame], scorer: Scorer, thresholds: Thresholds
) -> dict[str, float]:
    """Event F1 of test clips at thresholds of validation clips, macro and micro.

    Args:
        events: detections on the test clips at each threshold of :data:`GRID`.
        scorer: of the test clips.
        thresholds: see :func:`choose_thresholds`.

    Returns:
        `shared_threshold_f1_macro`, `..._micro`, `class_thresholds_f1_macro`, `..._micro`, and
        `shared_threshold`.
    """
    shared = scorer.event_based(events[thresholds.shared])
    parts = [events[at].query("event_label == @label") for label, at in thresholds.by_class.items()]
    own = scorer.event_based(pd.concat(parts))
    return {
        "shared_threshold": thresholds.shared,
        "shared_threshold_f1_macro": shared.macro_f1,
        "shared_threshold_f1_micro": shared.micro_f1,
        "class_thresholds_f1_macro": own.macro_f1,
        "class_thresholds_f1_micro": own.micro_f1,
    }
