"""PSDS over every threshold, by sed_scores_eval (the extra `exact`)."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation import decode, metrics


def psds(
    posteriors: Sequence[np.ndarray] | np.ndarray,
    filenames: Sequence[str],
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    classes: Sequence[str],
    *,
    scenario: int,
    median_window: int = 7,
    frame_seconds: float,
    clip_seconds: float | Sequence[float],
) -> float:
    """Exact polyphonic sound detection score: every threshold that changes a detection counts.

    The 50 thresholds of :func:`reference.psds` are a sample of the same curve, and mostly score
    lower. An intersection that meets a criterion to 1e-6 seconds counts as meeting it.

    Args:
        posteriors: `(clips, frames, classes)` in [0, 1], or one `(frames, classes)` a clip.
        filenames: one name a clip, as the reference has it.
        reference: annotated events of these clips.
        durations: columns filename and duration (seconds), one row a clip.
        classes: class names, in the order of the posteriors' last axis.
        scenario: 1 or 2, as in :func:`reference.psds`.
        median_window: median filter in frames.
        frame_seconds: time from one frame to the next.
        clip_seconds: length of the clips, or one a clip; no event ends after it.

    Raises:
        InputError: inputs do not fit together, a clip of the reference has no posteriors or the
            other way round, or sed_scores_eval is not installed.

    Source: Ebbers, Serizel, Haeb-Umbach, "Threshold-independent evaluation of sound event
    detection scores", ICASSP 2022.
    """
    library = _library()
    criteria, weights = metrics.scenario_settings(scenario)
    ends = dict(zip(filenames, decode.clip_ends(frame_seconds, clip_seconds, filenames)))
    files, _ = metrics.check_events(reference, "the reference")
    events, lengths = metrics.reference_and_durations(reference, durations)
    # Classes without a reference event have no curve; psds_eval leaves them out, too.
    present = sorted(set(events["event_label"]))
    unknown = set(present) - set(classes)
    if unknown:
        raise InputError(
            f"the reference holds the class {min(unknown)!r}, which is none of {', '.join(classes)}"
        )
    columns = [list(classes).index(label) for label in present]

    scores = {}
    for clips, names in decode.by_length(posteriors, filenames, classes):
        smoothed = decode.smooth(clips, median_window)[:, columns]
        for name, clip in zip(names, smoothed):
            times = decode.frame_times(np.arange(clip.shape[1] + 1), frame_seconds, ends[name])
            inside = np.diff(times) > 0
            times = np.append(times[:-1][inside], times[-1])
            scores[name] = library.base_modules.scores.create_score_dataframe(
                clip.T[inside].astype(float), times, present
            )
    for name in {*files} ^ {*scores}:
        place, other = ("reference", "posteriors") if name in files else ("posteriors", "reference")
        raise InputError(f"{name} is in the {place} but not in the {other}; give both")

    truth: dict[str, list[tuple[float, float, str]]] = {name: [] for name in scores}
    for row in events.itertuples():
        truth[row.filename].append((row.onset, row.offset, row.event_label))
    seconds = lengths.set_index("filename")["duration"]
    # One class cannot be taken for another, so there are no cross-triggers to weigh.
    crossed = weights["alpha_ct"] if len(present) > 1 else 0.0
    value, *_ = library.intersection_based.psds(
        scores=scores,
        ground_truth=truth,
        audio_durations={name: float(seconds[name]) for name in scores},
        dtc_threshold=criteria["dtc"],
        gtc_threshold=criteria["gtc"],
        cttc_threshold=criteria["cttc"] if crossed else None,
        alpha_ct=crossed,
        alpha_st=weights["alpha_st"],
        max_efpr=metrics.MAX_EFPR,
    )
    return float(value)


def _library() -> Any:
    try:
        import sed_scores_eval
    except ImportError as error:
        raise InputError(
            "exact PSDS needs the package sed_scores_eval; "
            f"pip install 'dcase-coherence[exact]' ({error})"
        ) from None
    return sed_scores_eval
