"""What models do at the boundaries of events: the statistics behind the paper's Figs. 3b and 4.

Models are compared on the same clips: posteriors are `(clips, frames, classes)` by name of the
model. Frame k stands for the time (k + 0.5) * frame_seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import linalg

from lab.errors import InputError
from lab.evaluation import decode, metrics

COLLAR = 0.2  # seconds; also how far from its boundaries the stable region of an event begins


@dataclass(frozen=True)
class Profile:
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


@dataclass(frozen=True)
class Histogram:
    """Distribution of a value for each model, over common bins.

    Attributes:
        edges: of the bins `(bins + 1,)`.
        density: share of the values in each bin `(bins,)`, by model; the rest lies beyond.
        mean: of all values.
        variance: of all values.
    """

    edges: np.ndarray
    density: dict[str, np.ndarray]
    mean: dict[str, float]
    variance: dict[str, float]


def stable_events(
    models: Mapping[str, np.ndarray],
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
        models: posteriors `(clips, frames, classes)` by name of the model.
        filenames: one name a clip.
        reference: annotated events.
        classes: class names, in the order of the last axis.
        frame_seconds: time from one frame to the next.
        threshold: of the median posterior.

    Returns:
        The events: filename, onset, offset, event_label, and their places clip and label.

    Raises:
        InputError: shapes do not fit, or a table cannot be used.
    """
    frames = _check(models, filenames, classes, frame_seconds)
    _, events = metrics.check_events(reference, "the reference")
    unknown = set(events["event_label"]) - set(classes)
    if unknown:
        raise InputError(
            f"the reference holds the class {min(unknown)!r}, which is none of {', '.join(classes)}"
        )
    events = events[events["filename"].isin(list(filenames))]
    events = events.assign(
        clip=pd.Index(filenames).get_indexer(events["filename"]),
        label=pd.Index(classes).get_indexer(events["event_label"]),
    )

    def detected(event: Any) -> bool:
        region = _stable_region(event.onset, event.offset, frames, frame_seconds)
        return region.stop > region.start and all(
            np.median(values[event.clip, region, event.label]) > threshold
            for values in models.values()
        )

    kept = np.array([detected(event) for event in events.itertuples()], dtype=bool)
    return events[kept].reset_index(drop=True)


def profile(
    models: Mapping[str, np.ndarray],
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
        models: posteriors `(clips, frames, classes)` by name of the model.
        events: as :func:`stable_events` returns them.
        edge: "onset" or "offset".
        frame_seconds: time from one frame to the next.
        span: seconds before and after the boundary.

    Raises:
        InputError: the edge is another one, or no event is left.
    """
    if edge not in ("onset", "offset"):
        raise InputError(f"edge is {edge!r}; give 'onset' or 'offset'")
    frames = next(iter(models.values())).shape[1]
    inner = events[edge].between(COLLAR, frames * frame_seconds - COLLAR)
    events = events[inner]
    if events.empty:
        raise InputError(
            f"no event with its {edge} inside a clip is detected by all of {', '.join(models)}"
        )
    steps = int(span / frame_seconds)
    seconds = np.arange(-steps, steps + 1) * frame_seconds
    position = (events[edge].to_numpy()[:, None] + seconds) / frame_seconds - 0.5
    outside = (position < 0) | (position > frames - 1)
    before = np.clip(np.floor(position).astype(int), 0, frames - 2)
    part = position - before
    clip, label = (events[name].to_numpy()[:, None] for name in ("clip", "label"))
    mean, error = {}, {}
    for name, values in models.items():
        traces = np.ma.masked_array(
            (1 - part) * values[clip, before, label] + part * values[clip, before + 1, label],
            outside,
        )
        count = traces.count(axis=0)
        mean[name] = traces.mean(axis=0).filled(np.nan)
        spread = traces.std(axis=0, ddof=1).filled(np.nan)
        error[name] = spread / np.sqrt(np.maximum(count, 1))
    return Profile(seconds, mean, error, len(events))


def rise_times(
    posteriors: np.ndarray, events: pd.DataFrame, *, frame_seconds: float, span: float = 2.0
) -> pd.DataFrame:
    """How long a model's posterior takes from 10 % to 90 % of its level inside each event.

    The level is the median in the stable region. The rise ends where the posterior first reaches
    90 % of it, at most `span` before the onset, and begins where it was last below 10 %; the fall
    is the same backwards in time around the offset. Crossings are interpolated.

    Args:
        posteriors: of one model `(clips, frames, classes)`.
        events: as :func:`stable_events` returns them.
        frame_seconds: time from one frame to the next.
        span: seconds before the onset (after the offset) where a rise (fall) may lie.

    Returns:
        Columns rise and fall (seconds), one row an event; NaN where the posterior is not below
        10 % within the span.
    """
    frames = posteriors.shape[1]
    margin = int(np.ceil(span / frame_seconds))
    rows = []
    for event in events.itertuples():
        trace = posteriors[event.clip, :, event.label]
        region = _stable_region(event.onset, event.offset, frames, frame_seconds)
        level = float(np.median(trace[region]))
        middle = (region.start + region.stop - 1) // 2
        start = max(int(event.onset / frame_seconds) - margin, 0)
        stop = min(int(event.offset / frame_seconds) + margin + 1, frames)
        rise = _rise(trace[start : middle + 1], level)
        fall = _rise(trace[middle:stop][::-1], level)
        rows.append((rise * frame_seconds, fall * frame_seconds))
    return pd.DataFrame(rows, columns=["rise", "fall"], dtype=float)


def edge_errors(reference: pd.DataFrame, estimated: pd.DataFrame) -> pd.DataFrame:
    """Signed errors of onsets and offsets of the events that were found at all.

    A reference event is found when an estimated event of its class intersects it; the one with
    the largest intersection counts.

    Args:
        reference: annotated events.
        estimated: detected events.

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
    _, references, estimates = metrics.reference_and_estimates(reference, estimated)
    references["event"] = np.arange(len(references))
    pairs = references.merge(estimates, on=["filename", "event_label"], suffixes=("", "_found"))
    onset, offset = (pairs[name].to_numpy(float) for name in ("onset", "offset"))
    onset_found, offset_found = (
        pairs[f"{name}_found"].to_numpy(float) for name in ("onset", "offset")
    )
    pairs = pairs.assign(
        onset_error=onset_found - onset,
        offset_error=offset_found - offset,
        overlap=np.minimum(offset, offset_found) - np.maximum(onset, onset_found),
    )
    pairs = pairs[pairs["overlap"] > 0].sort_values("overlap", ascending=False, kind="stable")
    best = pairs.drop_duplicates("event").sort_values("event").reset_index(drop=True)
    return best[["filename", "event_label", "onset_error", "offset_error"]]


def inside_change(
    features: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[np.ndarray] | np.ndarray,
    *,
    relative: bool = False,
) -> np.ndarray:
    """L1 norm of the change of z from frame to frame inside events (Fig. 3b).

    Frame t counts when some class is active and no class has started or stopped since t - 1.

    Args:
        features: z, one `(frames, dims)` a clip.
        labels: one `(frames, classes)` a clip, 0 or 1.
        relative: divide by the mean L1 norm of z: a model whose z is small all over then gains
            nothing by it.

    Returns:
        One value for each frame that counts, of all clips.

    Raises:
        InputError: shapes do not fit.
    """
    changes = []
    size = count = 0.0
    for z, y in _pairs(features, labels):
        inside = (y[1:] == y[:-1]).all(axis=1) & (y[1:] > 0).any(axis=1)
        changes.append(np.abs(np.diff(z, axis=0))[inside].sum(axis=1))
        size += np.abs(z).sum()
        count += len(z)
    found = np.concatenate(changes)
    return found / (size / count) if relative and size else found


def growth_ratios(
    features: Sequence[np.ndarray] | np.ndarray, labels: Sequence[np.ndarray] | np.ndarray
) -> tuple[float, float]:
    """Change of z at label changes over its change elsewhere: of all z, and along one direction.

    With `B` and `W` the sums of `(z[t] - z[t-1])(z[t] - z[t-1])^T` over the steps with and without
    a label change, a network that maps z linearly by `A` has the exact loss (eq. 3)
    `tr(A (alpha2 W - alpha1 B) A^T)`. Growing all of z lowers it without bound when
    `tr B / tr W > alpha2 / alpha1`; growing z along its best direction does when the largest
    generalised eigenvalue of `B v = r W v` is above `alpha2 / alpha1`.

    Args:
        features: z, one `(frames, dims)` a clip.
        labels: one `(frames, classes)` a clip, 0 or 1.

    Returns:
        `tr B / tr W` and the largest eigenvalue; the second is never below the first. Infinite
        when z changes along some direction at label changes alone.

    Raises:
        InputError: shapes do not fit.

    Example:
        >>> z = [np.array([[0.0, 0.0], [0.0, 1.0], [3.0, 2.0], [3.0, 4.0]])]
        >>> growth_ratios(z, [np.array([[0], [0], [1], [1]])])
        (2.0, inf)
    """
    at_change, elsewhere = 0.0, 0.0
    for z, y in _pairs(features, labels):
        steps = np.diff(z, axis=0)
        changed = (y[1:] != y[:-1]).any(axis=1)
        at_change = at_change + steps[changed].T @ steps[changed]
        elsewhere = elsewhere + steps[~changed].T @ steps[~changed]
    spread, axes = linalg.eigh(np.add(at_change, elsewhere))
    kept = spread > 1e-10 * spread.max()  # no ratio where z never changes
    if not kept.any():
        return float("nan"), float("nan")
    whiten = axes[:, kept] / np.sqrt(spread[kept])
    share = min(float(linalg.eigvalsh(whiten.T @ at_change @ whiten)[-1]), 1.0)
    trace = float(np.trace(elsewhere))
    return (
        float(np.trace(at_change)) / trace if trace else float("inf"),
        share / (1 - share) if share < 1 - 1e-10 else float("inf"),
    )


def step_distances(
    features: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[np.ndarray] | np.ndarray,
    *,
    lags: Sequence[int] = (1, 2, 4, 8),
) -> pd.DataFrame:
    """Squared distances of centred unit-norm z across label changes and elsewhere, lag by lag.

    What the monitor calls `d_boundary` and `d_inside`, of a network in evaluation mode: without the
    noise of a dropout in z, which is most of `d_inside` in training.

    Args:
        features: z, one `(frames, dims)` a clip; the mean over all frames is taken off.
        labels: one `(frames, classes)` a clip, 0 or 1.
        lags: how many frames apart; a boundary lies between two frames whose labels differ.

    Returns:
        Columns `boundary` and `inside`, means in [0, 4] (NaN where there is no such pair); one row
        a lag (index "frames apart").

    Raises:
        InputError: shapes do not fit.

    Example:
        >>> z = [np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]])]
        >>> step_distances(z, [np.array([[0], [0], [1], [1]])], lags=[1]).round(2).to_dict("list")
        {'boundary': [4.0], 'inside': [0.0]}
    """
    import torch  # not at the top: scores of detections are told without it

    from dcase_coherence import CoherenceLoss

    pairs = list(_pairs(features, labels))
    mean = np.concatenate([z for z, _ in pairs]).mean(axis=0)
    loss = CoherenceLoss(1.0, 1.0, normalize=True)
    # One clip a batch, as clips may differ in length.
    by_clip = [
        loss.pairs(torch.from_numpy(z - mean)[None], torch.as_tensor(y)[None], None, lags)
        for z, y in pairs
    ]
    rows = {}
    for lag, of_lag in zip(lags, zip(*by_clip)):
        distances = torch.cat([pair.distance[0] for pair in of_lag])
        changed = torch.cat([pair.boundary[0] for pair in of_lag])
        rows[lag] = [float(distances[changed].mean()), float(distances[~changed].mean())]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["boundary", "inside"])
    return table.rename_axis("frames apart")


def histogram(values: Mapping[str, np.ndarray], *, bins: int = 60) -> Histogram:
    """Distribution of a value for each model, over bins up to the 99.5th percentile of all.

    Args:
        values: one-dimensional, non-negative, by name of the model.
        bins: number of bins.

    Raises:
        InputError: a model has no value.
    """
    for name, found in values.items():
        if not np.size(found):
            raise InputError(f"there is no value of {name}; no event lasts two frames")
    top = float(np.quantile(np.concatenate(list(values.values())), 0.995)) or 1.0
    edges = np.linspace(0, top, bins + 1)
    return Histogram(
        edges,
        {name: np.histogram(found, edges)[0] / len(found) for name, found in values.items()},
        {name: float(np.mean(found)) for name, found in values.items()},
        {name: float(np.var(found)) for name, found in values.items()},
    )


def _check(
    models: Mapping[str, np.ndarray],
    filenames: Sequence[str],
    classes: Sequence[str],
    frame_seconds: float,
) -> int:
    """Raise unless all models speak of the same clips; the number of frames."""
    if not models:
        raise InputError("models is empty; give posteriors of at least one model")
    shapes = {name: np.shape(values) for name, values in models.items()}
    for values in models.values():
        decode.check_names(values, filenames, classes)
    if len(set(shapes.values())) > 1 or next(iter(shapes.values()))[1] < 2:
        raise InputError(f"posteriors have the shapes {shapes}; give the same clips of each model")
    if not frame_seconds > 0:
        raise InputError(f"frame_seconds is {frame_seconds}; give a time above 0 seconds")
    return next(iter(shapes.values()))[1]


def _pairs(features: Any, labels: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and labels of each clip, checked."""
    if len(features) != len(labels) or not len(features):
        raise InputError(
            f"there are features of {len(features)} clips and labels of {len(labels)}; "
            "give both for at least one clip"
        )
    for z, y in zip(features, labels):
        z, y = np.asarray(z, dtype=float), np.asarray(y)
        if z.ndim != 2 or y.ndim != 2 or len(z) != len(y):
            raise InputError(
                f"a clip has features of the shape {z.shape} and labels of the shape {y.shape}; "
                "give (frames, dims) and (frames, classes)"
            )
        yield z, y


def _stable_region(onset: float, offset: float, frames: int, frame_seconds: float) -> slice:
    """Frames whose time lies in the event, 200 ms or more from its boundaries; maybe none."""
    first = int(np.ceil((onset + COLLAR) / frame_seconds - 0.5))
    stop = int(np.floor((offset - COLLAR) / frame_seconds - 0.5)) + 1
    return slice(max(first, 0), min(stop, frames))


def _rise(trace: np.ndarray, level: float) -> float:
    """Frames that a trace takes from 10 % to 90 % of a level, NaN when it starts higher."""
    high = trace >= 0.9 * level
    if not high.any():
        return float("nan")
    reached = int(high.argmax())
    low = np.flatnonzero(trace[:reached] <= 0.1 * level)
    if not len(low):
        return float("nan")

    def crossing(after: int, height: float) -> float:
        below, above = trace[after - 1], trace[after]
        return after - (above - height) / (above - below)

    return crossing(reached, 0.9 * level) - crossing(int(low[-1]) + 1, 0.1 * level)
