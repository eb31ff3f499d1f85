"""PSDS over every threshold, by sed_scores_eval (the extra `exact`)."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation import decode, metrics


def psds(
    posteriors: Mapping[str, np.ndarray],
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    classes: Sequence[str],
    *,
    median_window: int,
    frame_seconds: float,
) -> tuple[float, ...]:
    """Exact polyphonic sound detection scores: every threshold that changes a detection counts.

    The 50 thresholds of :func:`reference.psds` are a sample of the same curve, and mostly score
    lower. An intersection that meets a criterion to 1e-6 seconds counts as meeting it.

    Args:
        posteriors: `(frames, classes)` in [0, 1] of each clip, by its name.
        reference: annotated events of these clips.
        durations: columns filename and duration (seconds), one row a clip.
        classes: class names, in the order of the posteriors' last axis.
        median_window: median filter in frames.
        frame_seconds: time from one frame to the next.

    Returns:
        The scores of scenarios 1 and 2, as in :func:`reference.psds`.

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
    values = []
    for criteria, weights in metrics.SCENARIOS.values():
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
        values.append(float(value))
    return tuple(values)
