"""From posteriors to events: threshold, median filter, run-length, seconds."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from lab.errors import InputError

COLUMNS = ["event_label", "onset", "offset", "filename"]


def decode(
    posteriors: Sequence[np.ndarray] | np.ndarray,
    filenames: Sequence[str],
    classes: Sequence[str],
    *,
    thresholds: Sequence[float] = (0.5,),
    median_window: int = 7,
    frame_seconds: float,
    clip_seconds: float | Sequence[float],
) -> dict[float, pd.DataFrame]:
    """Events of clips at one or more thresholds, as the DCASE Task 4 baseline decodes them.

    Args:
        posteriors: `(clips, frames, classes)` in [0, 1], or one `(frames, classes)` a clip.
        filenames: one name a clip, which its events carry.
        classes: class names, in the order of the last axis.
        thresholds: a frame is active where its posterior is strictly above the threshold.
        median_window: median filter on the decisions, in frames.
        frame_seconds: time from one frame to the next.
        clip_seconds: length of the clips, or one a clip; no event ends after it.

    Returns:
        A DataFrame with columns event_label, onset, offset (seconds), filename for each
        threshold, sorted by clip, class and onset; clips of one length stand together.

    Raises:
        InputError: shapes, ranges or settings do not fit together.

    Example:
        >>> posteriors = np.array([[[0.1], [0.9], [0.8], [0.2]]])
        >>> decode(
        ...     posteriors, ["a.wav"], ["Dog"], median_window=1, frame_seconds=0.5, clip_seconds=2.0
        ... )[0.5]
          event_label  onset  offset filename
        0         Dog    0.5     1.5    a.wav
    """
    _check(posteriors, filenames, classes, thresholds, median_window)
    ends = np.broadcast_to(np.asarray(clip_seconds, dtype=float), len(filenames))
    labels, names = (np.array(list(one), dtype=object) for one in (classes, filenames))
    parts: dict[float, list[pd.DataFrame]] = {float(threshold): [] for threshold in thresholds}
    by_length: dict[int, list[int]] = {}
    for place, clip in enumerate(posteriors):
        by_length.setdefault(len(clip), []).append(place)
    for places in by_length.values():
        smoothed = smooth(np.stack([posteriors[place] for place in places]), median_window)
        for threshold, tables in parts.items():
            row, label, first, stop = _runs(smoothed, threshold)
            clip = np.array(places)[row]
            times = (
                # Divided by the frame rate: these are the baseline's own floating-point numbers,
                # on which the collar of 200 ms is decided.
                np.clip(frames / (1 / frame_seconds), 0, ends[clip])
                for frames in (first, stop)
            )
            columns = (labels[label], *times, names[clip])
            tables.append(pd.DataFrame(dict(zip(COLUMNS, columns)), columns=COLUMNS))
    none = pd.DataFrame(columns=COLUMNS).astype({"onset": float, "offset": float})
    return {
        threshold: pd.concat(tables, ignore_index=True) if tables else none
        for threshold, tables in parts.items()
    }


def _check(
    posteriors: Sequence[np.ndarray] | np.ndarray,
    filenames: Sequence[str],
    classes: Sequence[str],
    thresholds: Sequence[float],
    median_window: int,
) -> None:
    if len(posteriors) != len(filenames):
        raise InputError(f"there are {len(posteriors)} clips for {len(filenames)} filenames")
    for clip, name in zip(posteriors, filenames):
        if np.ndim(clip) != 2 or not len(clip) or np.shape(clip)[1] != len(classes):
            raise InputError(
                f"posteriors of {name} have the shape {np.shape(clip)}; give (frames, "
                f"{len(classes)} classes)"
            )
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise InputError(f"a threshold is {threshold}; give thresholds in [0, 1]")
    if int(median_window) != median_window or median_window < 1:
        raise InputError(f"median_window is {median_window}; give a whole number of frames >= 1")


def smooth(posteriors: np.ndarray, median_window: int) -> np.ndarray:
    """Median-filter posteriors along time; returns `(clips, classes, frames)`.

    An order statistic commutes with a threshold, so one filter of the posteriors stands for a
    filter of the decisions at every threshold. Boundaries are reflected (scipy's default).
    """
    if not (posteriors.min() >= 0 and posteriors.max() <= 1):
        raise InputError(
            f"posteriors range from {posteriors.min()} to {posteriors.max()}; "
            "give probabilities in [0, 1] (NaN is not one)"
        )
    if posteriors.dtype not in (np.float32, np.float64):  # scipy filters no others
        posteriors = posteriors.astype(np.float32)
    by_time = np.ascontiguousarray(posteriors.transpose(0, 2, 1))
    return ndimage.median_filter(by_time, size=(1, 1, int(median_window)))


def _runs(smooth: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
    """Runs of frames above a threshold: clip, class, first active frame, frame after the last.

    Example:
        >>> _runs(np.array([[[0.9, 0.8, 0.1, 0.7]]]), 0.5)[2:]
        (array([0, 3]), array([2, 4]))
    """
    clips, classes, frames = smooth.shape
    # The comparison is made in the posteriors' own precision, as on a float32 tensor.
    active = np.zeros((clips, classes, frames + 2), dtype=bool)
    np.greater(smooth, smooth.dtype.type(threshold), out=active[..., 1:-1])
    change = np.flatnonzero(active[..., 1:] != active[..., :-1]).reshape(-1, 2)
    row, first = np.divmod(change[:, 0], frames + 1)
    return row // classes, row % classes, first, change[:, 1] - row * (frames + 1)
