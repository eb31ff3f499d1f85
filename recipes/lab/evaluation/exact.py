"""PSDS over every threshold, by sed_scores_eval (the extra `exact`)."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation import decode, metrics
from lab.evaluation.posteriors import load_posteriors


def psds_of_test(
    path: Path,
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    rename: Callable[[str], str] = str,
) -> tuple[float, float]:
    """Exact PSDS of scenarios 1 and 2, of the `posteriors.npz` that the test of a model left.

    Args:
        path: of the file.
        reference: annotated events of its clips.
        durations: columns filename and duration (seconds), one row a clip.
        rename: makes a clip's name in the file that of the tables.

    Raises:
        InputError: as :func:`psds` and :func:`load_posteriors`.
    """
    posteriors, classes = load_posteriors(path)
    with np.load(path) as file:
        if "median_window" not in file:
            raise InputError(f"{path} has no median_window; test the model again")
        window, hop = int(file["median_window"]), float(file["frame_seconds"])
    named = {rename(name): clip for name, clip in posteriors.items()}
    first, second = (
        psds(
            named,
            reference,
            durations,
            classes,
            scenario=scenario,
            median_window=window,
            frame_seconds=hop,
        )
        for scenario in (1, 2)
    )
    return first, second


def psds(
    posteriors: Mapping[str, np.ndarray],
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    classes: Sequence[str],
    *,
    scenario: int,
    median_window: int = 7,
    frame_seconds: float,
) -> float:
    """Exact polyphonic sound detection score: every threshold that changes a detection counts.

    The 50 thresholds of :func:`reference.psds` are a sample of the same curve, and mostly score
    lower. An intersection that meets a criterion to 1e-6 seconds counts as meeting it.

    Args:
        posteriors: `(frames, classes)` in [0, 1] of each clip, by its name.
        reference: annotated events of these clips.
        durations: columns filename and duration (seconds), one row a clip.
        classes: class names, in the order of the posteriors' last axis.
        scenario: 1 or 2, as in :func:`reference.psds`.
        median_window: median filter in frames.
        frame_seconds: time from one frame to the next.

    Raises:
        InputError: a clip or class of the reference has no posteriors, a clip of the posteriors no
            reference, posteriors are not in [0, 1], or sed_scores_eval is not installed.

    Source: Ebbers, Serizel, Haeb-Umbach, "Threshold-independent evaluation of sound event
    detection scores", ICASSP 2022.
    """
    try:
        from sed_scores_eval import intersection_based
        from sed_scores_eval.base_modules.scores import create_score_dataframe
    except ImportError as error:
        raise InputError(
            "exact PSDS needs the package sed_scores_eval; "
            f"pip install 'dcase-coherence[exact]' ({error})"
        ) from None
    criteria, weights = metrics.SCENARIOS[scenario]
    files, events = metrics.split(reference)
    for name in {*files} ^ {*posteriors}:
        place, other = ("reference", "posteriors") if name in files else ("posteriors", "reference")
        raise InputError(f"{name} is in the {place} but not in the {other}; give both")
    # Classes without a reference event have no curve; psds_eval leaves them out, too.
    present = sorted(set(events["event_label"]))
    for label in set(present) - set(classes):
        raise InputError(f"the reference has the class {label!r}, of which there are no posteriors")
    columns = [list(classes).index(label) for label in present]
    seconds = {name: float(end) for name, end in durations[["filename", "duration"]].to_numpy()}
    scores = {}
    for name, clip in posteriors.items():
        smooth = decode.smooth(clip[None][..., columns], median_window)[0].T.astype(float)
        times = np.minimum(np.arange(len(clip) + 1) * frame_seconds, seconds[name])
        inside = np.diff(times) > 0
        times = np.append(times[:-1][inside], times[-1])
        scores[name] = create_score_dataframe(smooth[inside], times, present)
    truth: dict[str, list[tuple[float, float, str]]] = {name: [] for name in scores}
    for row in events.itertuples():
        truth[row.filename].append((row.onset, row.offset, row.event_label))
    # One class cannot be taken for another, so there are no cross-triggers to weigh.
    crossed = weights["alpha_ct"] if len(present) > 1 else 0.0
    value, *_ = intersection_based.psds(
        scores=scores,
        ground_truth=truth,
        audio_durations={name: seconds[name] for name in scores},
        dtc_threshold=criteria["dtc"],
        gtc_threshold=criteria["gtc"],
        cttc_threshold=criteria["cttc"] if crossed else None,
        alpha_ct=crossed,
        alpha_st=weights["alpha_st"],
        max_efpr=metrics.MAX_EFPR,
    )
    return float(value)
