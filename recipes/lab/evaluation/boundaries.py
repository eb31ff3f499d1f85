"""What models do at the boundaries of events: the statistics behind the paper's Figs. 3b and 4.

Of each clip there are posteriors `(frames, classes)`, z `(frames, dims)` and labels `(frames,
classes)`, 0 or 1, in lists or arrays. Frame k stands for the time (k + 0.5) * frame_seconds.
Functions of z raise an InputError where its frames are not those of the labels.
"""

from __future__ import annotations

from typing import Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation.metrics import COLLAR, reference_and_estimates, split


class Profile(NamedTuple):
    """Mean posterior around one kind of boundary.

    Attributes:
        seconds: time from the boundary `(points,)`, negative before it.
        mean: mean posterior `(points,)` of each model.
        standard_error: of that mean, `(points,)`.
        events: number of events.
    """

    seconds: np.ndarray
    mean: dict[str, np.ndarray]
    standard_error: dict[str, np.ndarray]
    events: int


def stable_events(
    models: Mapping[str, Sequence[np.ndarray]],
    filenames: Sequence[str],
    reference: pd.DataFrame,
    classes: Sequence[str],
    *,
    frame_seconds: float,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """Reference events that every model detects in their stable region.

    The stable region is the event without the 200 ms next to its boundaries, and a model detects
    an event there when its median posterior exceeds the threshold. Events without a frame in
    their stable region are left out. (The paper names the region but gives no rule.)

    Args:
        models: posteriors of each clip, by name of the model.
        filenames: one name a clip.
        reference: annotated events; those of other clips are left out.
        classes: class names, in the order of the last axis.
        frame_seconds: time from one frame to the next.
        threshold: of the median posterior.

    Returns:
        The events: filename, onset, offset, event_label, and their places clip and label.
    """
    _, events = split(reference)
    events = events[events["filename"].isin(list(filenames))]
    events = events.assign(
        clip=pd.Index(filenames).get_indexer(events["filename"]),
        label=pd.Index(classes).get_indexer(events["event_label"]),
    )
    kept = []
    for event in events.itertuples():
        traces = [values[event.clip][:, event.label] for values in models.values()]
        region = _stable_region(event.onset, event.offset, len(traces[0]), frame_seconds)
        kept.append(
            region.stop > region.start
            and all(np.median(trace[region]) > threshold for trace in traces)
        )
    return events[np.array(kept, dtype=bool)].reset_index(drop=True)


def profile(
    models: Mapping[str, Sequence[np.ndarray]],
    events: pd.DataFrame,
    edge: str,
    *,
    frame_seconds: float,
    span: float = 1.0,
) -> Profile:
    """Mean posterior of events around their onsets or offsets (Figs. 4a and 4b).

    Posteriors are interpolated linearly at times from the boundary; times outside the clip do
    not count, nor do boundaries within 200 ms of the clip's ends, where nothing starts or stops.

    Args:
        models: posteriors of each clip, by name of the model.
        events: as :func:`stable_events` returns them.
        edge: "onset" or "offset".
        frame_seconds: time from one frame to the next.
        span: seconds before and after the boundary.

    Raises:
        InputError: no event is left.
    """
    frames = np.array([len(clip) for clip in next(iter(models.values()))])
    ends = frames[events["clip"]] * frame_seconds
    events = events[events[edge].between(COLLAR, ends - COLLAR)]
    if events.empty:
        raise InputError(
            f"no event with its {edge} inside a clip is detected by all of {', '.join(models)}"
        )
    steps = int(span / frame_seconds)
    seconds = np.arange(-steps, steps + 1) * frame_seconds
    centres = (np.arange(frames.max()) + 0.5) * frame_seconds
    mean, error = {}, {}
    for name, values in models.items():
        rows = []
        for at, clip, label in zip(events[edge], events["clip"], events["label"]):
            trace = values[clip][:, label]
            known = centres[: len(trace)]
            rows.append(np.interp(at + seconds, known, trace, left=np.nan, right=np.nan))
        traces = pd.DataFrame(rows)
        mean[name], error[name] = traces.mean().to_numpy(), traces.sem().to_numpy()
    return Profile(seconds, mean, error, len(events))


def rise_times(
    posteriors: Sequence[np.ndarray],
    events: pd.DataFrame,
    *,
    frame_seconds: float,
    span: float = 2.0,
) -> pd.DataFrame:
    """How long a model's posterior takes from 10 % to 90 % of its level inside each event.

    The level is the median in the stable region. The rise ends where the posterior first reaches
    90 % of it, at most `span` before the onset, and begins where it was last below 10 %; the fall
    is the same backwards in time around the offset. Crossings are interpolated.

    Args:
        posteriors: of one model.
        events: as :func:`stable_events` returns them.
        frame_seconds: time from one frame to the next.
        span: seconds before the onset (after the offset) where a rise (fall) may lie.

    Returns:
        Columns rise and fall (seconds), one row an event; NaN where the posterior is not below
        10 % within the span.
    """
    margin = int(np.ceil(span / frame_seconds))
    rows = []
    for event in events.itertuples():
        trace = posteriors[event.clip][:, event.label]
        region = _stable_region(event.onset, event.offset, len(trace), frame_seconds)
        level = float(np.median(trace[region]))
        middle = (region.start + region.stop - 1) // 2
        start = max(int(event.onset / frame_seconds) - margin, 0)
        stop = min(int(event.offset / frame_seconds) + margin + 1, len(trace))
        parts = trace[start : middle + 1], trace[middle:stop][::-1]
        rows.append([_rise(part, level) * frame_seconds for part in parts])
    return pd.DataFrame(rows, columns=["rise", "fall"], dtype=float)


def edge_errors(reference: pd.DataFrame, estimated: pd.DataFrame) -> pd.DataFrame:
    """Signed errors of onsets and offsets of the events that were found at all.

    A reference event is found when an estimated event of its class intersects it; the one with
    the largest intersection counts.

    Returns:
        Columns filename, event_label, onset_error, offset_error: seconds, positive when the
        detection is late. One row for each event that was found.

    Example:
        >>> columns = ["filename", "onset", "offset", "event_label"]
        >>> reference = pd.DataFrame([["a.wav", 1.0, 3.0, "Dog"]], columns=columns)
        >>> estimated = pd.DataFrame([["a.wav", 1.25, 2.75, "Dog"]], columns=columns)
        >>> edge_errors(reference, estimated)
          filename event_label  onset_error  offset_error
        0    a.wav         Dog         0.25         -0.25
    """
    references, estimates = reference_and_estimates(reference, estimated)
    pairs = references.reset_index(names="event").merge(
        estimates, on=["filename", "event_label"], suffixes=("", "_found")
    )
    pairs["onset_error"] = pairs["onset_found"] - pairs["onset"]
    pairs["offset_error"] = pairs["offset_found"] - pairs["offset"]
    pairs["overlap"] = pairs[["offset", "offset_found"]].min(axis=1)
    pairs["overlap"] -= pairs[["onset", "onset_found"]].max(axis=1)
    pairs = pairs[pairs["overlap"] > 0].sort_values("overlap", ascending=False, kind="stable")
    best = pairs.drop_duplicates("event").sort_values("event").reset_index(drop=True)
    return best[["filename", "event_label", "onset_error", "offset_error"]]


def inside_change(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """L1 norm of the change of z from frame to frame inside events (Fig. 3b).

    Frame t counts when some class is active and no class has started or stopped since t - 1. One
    value for each frame that counts, of all clips.
    """
    changes = []
    for z, y in _pairs(features, labels):
        inside = (y[1:] == y[:-1]).all(axis=1) & (y[1:] > 0).any(axis=1)
        changes.append(np.abs(np.diff(z, axis=0))[inside].sum(axis=1))
    return np.concatenate(changes)


def _pairs(
    features: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and labels of each clip; the frames of a submodule may be others."""
    for z, y in zip(features, labels):
        if len(z) != len(y):
            raise InputError(
                f"a clip has z of {len(z)} frames and labels of {len(y)}; give the path of a "
                "submodule with the frames of the posteriors"
            )
        yield np.asarray(z, dtype=float), np.asarray(y)


def _stable_region(onset: float, offset: float, frames: int, frame_seconds: float) -> slice:
    """Frames whose time lies in the event, 200 ms or more from its boundaries; maybe none."""
    first = int(np.ceil((onset + COLLAR) / frame_seconds - 0.5))
    stop = int(np.floor((offset - COLLAR) / frame_seconds - 0.5)) + 1
    return slice(max(first, 0), min(stop, frames))


def _rise(trace: np.ndarray, level: float) -> float:
    """Frames that a trace takes from 10 % to 90 % of a level, NaN when it starts higher."""
    high = trace >= 0.9 * level
    reached = int(high.argmax())
    low = np.flatnonzero(trace[:reached] <= 0.1 * level)
    if not high.any() or not len(low):
        return float("nan")

    def crossing(after: int, height: float) -> float:
        below, above = trace[after - 1], trace[after]
        return after - (above - height) / (above - below)

    return crossing(reached, 0.9 * level) - crossing(int(low[-1]) + 1, 0.1 * level)
