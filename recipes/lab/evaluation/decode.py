"""From posteriors to events: threshold, median filter, run-length, seconds."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from lab.errors import InputError

COLUMNS = ["event_label", "onset", "offset", "filename"]


class Runs(NamedTuple):
    """Runs of active frames as four equally long integer arrays, sorted by clip, class, onset."""

    clip: np.ndarray
    label: np.ndarray
    first: np.ndarray  # first active frame
    stop: np.ndarray  # frame after the last active one


def smooth(posteriors: np.ndarray, median_window: int) -> np.ndarray:
    """Median-filter posteriors along time.

    An order statistic commutes with a threshold, so one filter of the posteriors stands for a
    filter of the decisions at every threshold. Boundaries are reflected (scipy's default).

    Args:
        posteriors: `(clips, frames, classes)`, in [0, 1].
        median_window: length of the filter in frames; 1 leaves the posteriors as they are.

    Returns:
        Filtered posteriors `(clips, classes, frames)`, contiguous in time.

    Raises:
        InputError: the shape, the range or the window cannot be used.
    """
    posteriors = np.asarray(posteriors)
    if posteriors.ndim != 3 or posteriors.shape[1] == 0:
        raise InputError(
            f"posteriors have the shape {posteriors.shape}; give (clips, frames, classes) "
            "with at least one frame"
        )
    if int(median_window) != median_window or median_window < 1:
        raise InputError(f"median_window is {median_window}; give a whole number of frames >= 1")
    if posteriors.size and not (posteriors.min() >= 0 and posteriors.max() <= 1):
        raise InputError(
            f"posteriors range from {posteriors.min()} to {posteriors.max()}; "
            "give probabilities in [0, 1] (NaN is not one)"
        )
    if posteriors.dtype not in (np.float32, np.float64):
        posteriors = posteriors.astype(np.float32 if posteriors.dtype == np.float16 else float)
    by_time = np.ascontiguousarray(posteriors.transpose(0, 2, 1))
    if median_window == 1 or not by_time.size:
        return by_time
    return ndimage.median_filter(by_time, size=(1, 1, int(median_window)))


def runs(smoothed: np.ndarray, threshold: float) -> Runs:
    """Runs of frames above a threshold.

    Args:
        smoothed: `(clips, classes, frames)`, as :func:`smooth` returns them.
        threshold: frames strictly above it are active.

    Example:
        >>> runs(np.array([[[0.9, 0.8, 0.1, 0.7]]]), 0.5)[2:]
        (array([0, 3]), array([2, 4]))
    """
    clips, classes, frames = smoothed.shape
    # The comparison is made in the posteriors' own precision, as on a float32 tensor.
    active = np.zeros((clips, classes, frames + 2), dtype=bool)
    np.greater(smoothed, smoothed.dtype.type(threshold), out=active[..., 1:-1])
    change = np.flatnonzero(active[..., 1:] != active[..., :-1]).reshape(-1, 2)
    row, first = np.divmod(change[:, 0], frames + 1)
    return Runs(row // classes, row % classes, first, change[:, 1] - row * (frames + 1))


def frame_times(
    frames: np.ndarray, frame_seconds: float, clip_seconds: float | np.ndarray
) -> np.ndarray:
    """Start times of frames in seconds, clipped to the clip, or each to its own.

    Divides by the frame rate: that gives the baseline's own floating-point numbers, on which
    the collar of 200 ms is decided, for every frame rate that a float holds exactly.
    """
    return np.clip(frames / (1 / frame_seconds), 0, clip_seconds)


def decode(
    posteriors: np.ndarray,
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
        posteriors: `(clips, frames, classes)`, in [0, 1].
        filenames: one name a clip, which its events carry.
        classes: class names, in the order of the last axis.
        thresholds: a frame is active where its posterior is strictly above the threshold.
        median_window: median filter on the decisions, in frames.
        frame_seconds: time from one frame to the next.
        clip_seconds: length of the clips, or one a clip; no event ends after it.

    Returns:
        A DataFrame with columns event_label, onset, offset (seconds), filename for each
        threshold, sorted by clip, class and onset.

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
    check_names(posteriors, filenames, classes)
    check_thresholds(thresholds)
    ends = clip_ends(frame_seconds, clip_seconds, filenames)
    smoothed = smooth(posteriors, median_window)
    labels = np.array(list(classes), dtype=object)
    names = np.array(list(filenames), dtype=object)
    events = {}
    for threshold in thresholds:
        found = runs(smoothed, threshold)
        events[float(threshold)] = pd.DataFrame(
            {
                "event_label": labels[found.label],
                "onset": frame_times(found.first, frame_seconds, ends[found.clip]),
                "offset": frame_times(found.stop, frame_seconds, ends[found.clip]),
                "filename": names[found.clip],
            },
            columns=COLUMNS,
        )
    return events


def check_names(posteriors: np.ndarray, filenames: Sequence[str], classes: Sequence[str]) -> None:
    """Raise unless there is one distinct filename a clip and one class name a column."""
    shape = np.shape(posteriors)
    if len(shape) != 3 or shape[0] != len(filenames) or shape[2] != len(classes):
        raise InputError(
            f"posteriors have the shape {tuple(shape)} for {len(filenames)} filenames and "
            f"{len(classes)} classes; give (clips, frames, classes)"
        )
    for kind, names in (("class", list(classes)), ("clip", list(filenames))):
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the {kind} {twice!r} is given twice; each {kind} may come once")


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Raise unless there is at least one threshold and all lie in [0, 1]."""
    if not len(thresholds):
        raise InputError("thresholds is empty; give at least one in [0, 1]")
    for threshold in thresholds:
        if not 0 <= threshold <= 1:
            raise InputError(f"a threshold is {threshold}; give thresholds in [0, 1]")


def clip_ends(
    frame_seconds: float, clip_seconds: float | Sequence[float], filenames: Sequence[str]
) -> np.ndarray:
    """Length of each clip `(clips,)`; raise unless all times are above 0 seconds."""
    ends = np.asarray(clip_seconds, dtype=float)
    if ends.shape not in ((), (len(filenames),)):
        raise InputError(
            f"clip_seconds are of the shape {ends.shape} for {len(filenames)} filenames; give one "
            "time, or one a clip"
        )
    for name, value in (("frame_seconds", frame_seconds), ("clip_seconds", ends)):
        if not np.all(np.greater(value, 0)):
            raise InputError(f"{name} is {np.min(value):g}; give a time above 0 seconds")
    return np.broadcast_to(ends, (len(filenames),))


def by_length(
    posteriors: Sequence[np.ndarray] | np.ndarray, filenames: Sequence[str], classes: Sequence[str]
) -> list[tuple[np.ndarray, list[str]]]:
    """Clips of equal length together.

    Args:
        posteriors: `(clips, frames, classes)`, or one `(frames, classes)` a clip.
        filenames: one name a clip.
        classes: class names, in the order of the last axis.

    Returns:
        Posteriors `(clips, frames, classes)` and filenames of each length.

    Raises:
        InputError: numbers of clips, names and classes differ.
    """
    if len(posteriors) != len(filenames):
        raise InputError(
            f"there are posteriors of {len(posteriors)} clips for {len(filenames)} filenames"
        )
    if not len(filenames):
        raise InputError("there is no clip; give posteriors of at least one")
    if isinstance(posteriors, np.ndarray) and posteriors.ndim == 3:
        groups = [list(range(len(posteriors)))]
        parts = [posteriors]
    else:
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place, clip in enumerate(posteriors):
            shapes.setdefault(np.shape(clip), []).append(place)
        groups = list(shapes.values())
        parts = [np.stack([posteriors[place] for place in places]) for places in groups]
    check_names(np.zeros((len(filenames), 1, len(classes))), filenames, classes)
    for part, places in zip(parts, groups):
        check_names(part, [filenames[place] for place in places], classes)
    return [(part, [filenames[place] for place in places]) for part, places in zip(parts, groups)]
