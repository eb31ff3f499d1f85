"""The scores of :mod:`reference`, fast: the same values from arrays of intervals.

sed_eval and psds_eval compare events one by one and through merged tables; here clips and
classes are handled in one go. The tests hold every value against :mod:`reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, NamedTuple, Sequence, Union

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lab.errors import InputError
from lab.evaluation import decode, metrics
from lab.evaluation.metrics import Scores, scores_from_counts

#: The 50 operating points of the DCASE 2021 Task 4 baseline.
THRESHOLDS = tuple(np.arange(0.01, 1, 0.02).tolist())
SECONDS_PER_HOUR = 3600


class Events(NamedTuple):
    """Events as four equally long arrays; clips and classes are numbers of a :class:`Scorer`."""

    clip: np.ndarray
    label: np.ndarray
    onset: np.ndarray
    offset: np.ndarray


class Overlaps(NamedTuple):
    """Pairs of an estimated and a reference event of one class that intersect."""

    estimated: np.ndarray
    reference: np.ndarray
    seconds: np.ndarray


Detections = Union[pd.DataFrame, Events]


@dataclass(frozen=True)
class Evaluation:
    """All scores of one model on one set of clips.

    Attributes:
        event: event-based scores (collar 200 ms, 20 %) at the one threshold.
        segment: segment-based scores (1 s) at that threshold.
        intersection: intersection-based scores (dtc = gtc = 0.5) at that threshold.
        psds1: PSDS of scenario 1 from the operating points.
        psds2: PSDS of scenario 2 from the operating points.
        counts: `(clips, classes, 3)`, event-based numbers of reference events, estimated events
            and true positives in each clip.
        clips: filenames of the reference, in the order of `counts`.
        classes: sorted class names, in the order of `counts`.
    """

    event: Scores
    segment: Scores
    intersection: Scores
    psds1: float
    psds2: float
    counts: np.ndarray
    clips: list[str]
    classes: list[str]

    def summary(self) -> dict[str, float]:
        """The scores by name, all in [0, 1]."""
        named: dict[str, float] = {}
        for name in ("event", "segment", "intersection"):
            scores: Scores = getattr(self, name)
            named[f"{name}_f1_macro"] = scores.macro_f1
            named[f"{name}_f1_micro"] = scores.micro_f1
            named[f"{name}_f1_macro_strict"] = scores.strict_macro_f1
        return {**named, "psds_score_scenario1": self.psds1, "psds_score_scenario2": self.psds2}


def evaluate(
    posteriors: Sequence[np.ndarray] | np.ndarray,
    filenames: Sequence[str],
    reference: pd.DataFrame,
    durations: pd.DataFrame,
    classes: Sequence[str],
    *,
    median_window: int = 7,
    frame_seconds: float,
    clip_seconds: float | Sequence[float],
    threshold: float = 0.5,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Evaluation:
    """Event, segment and intersection F1 and both PSDS of a model, from its posteriors.

    Args:
        posteriors: `(clips, frames, classes)` in [0, 1], or one `(frames, classes)` a clip.
        filenames: one name a clip, as the reference has it.
        reference: annotated events. Its clips are evaluated; one without posteriors counts as
            one where nothing was found.
        durations: columns filename and duration (seconds), one row a clip.
        classes: class names, in the order of the posteriors' last axis.
        median_window: median filter in frames.
        frame_seconds: time from one frame to the next.
        clip_seconds: length of the clips, or one a clip; no event ends after it.
        threshold: where event, segment and intersection F1 are taken.
        thresholds: operating points of PSDS.

    Raises:
        InputError: shapes, tables or settings cannot be used or do not fit together.
    """
    decode.check_thresholds([threshold, *thresholds])
    ends = dict(zip(filenames, decode.clip_ends(frame_seconds, clip_seconds, filenames)))
    scorer = Scorer(reference, durations, classes)
    groups = [
        (
            scorer.clip_numbers(names),
            decode.smooth(clips, median_window),
            np.array([ends[name] for name in names]),
        )
        for clips, names in decode.by_length(posteriors, filenames, classes)
    ]
    label_numbers = np.array([scorer.classes.index(label) for label in classes], dtype=int)

    def events(at: float) -> Events:
        parts = []
        for clips, smoothed, stops in groups:
            found = decode.runs(smoothed, at)
            onset, offset = (
                decode.frame_times(frames, frame_seconds, stops[found.clip])
                for frames in (found.first, found.stop)
            )
            parts.append(Events(clips[found.clip], label_numbers[found.label], onset, offset))
        return Events(*map(np.concatenate, zip(*parts)))

    return scorer.evaluate(events(threshold), {at: events(at) for at in thresholds})


class Scorer:
    """Scores against one reference, which is prepared once.

    Detections are DataFrames (filename, onset, offset, event_label) or :class:`Events`.

    Args:
        reference: annotated events; its filenames are the clips that are evaluated.
        durations: columns filename and duration (seconds), one row a clip. Without it, there is
            no intersection-based score and no PSDS.
        classes: class names that detections may have beside those of the reference.

    Attributes:
        files: filenames of the reference, in its order.
        classes: sorted class names.

    Raises:
        InputError: as :func:`reference.intersection_based` raises for its tables.
    """

    def __init__(
        self,
        reference: pd.DataFrame,
        durations: pd.DataFrame | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.files, events = metrics.check_events(reference, "the reference")
        solid, self.lengths = events, pd.DataFrame(columns=["filename", "duration"])
        if durations is not None:
            solid, self.lengths = metrics.reference_and_durations(reference, durations)
        self.classes = sorted({*events["event_label"], *classes})
        others = sorted(set(self.lengths["filename"]) - set(self.files))
        self._clips = pd.Index([*self.files, *others])
        self._labels = pd.Index(self.classes)
        self.reference = self._sorted(self._numbers(events))
        # Intersections are counted on events longer than zero seconds.
        self.solid = self._sorted(self._numbers(solid))
        seconds = self.lengths.set_index("filename")["duration"]
        self.duration = seconds.reindex(self._clips).to_numpy()

    def evaluate(
        self, estimated: Detections, operating_points: Mapping[float, Detections]
    ) -> Evaluation:
        """All scores of detections at one threshold and, for PSDS, at several."""
        psds1, psds2 = self.psds(operating_points)
        return Evaluation(
            event=self.event_based(estimated),
            segment=self.segment_based(estimated),
            intersection=self.intersection_based(estimated),
            psds1=psds1,
            psds2=psds2,
            counts=self.event_counts(estimated),
            clips=self.files,
            classes=self.classes,
        )

    def clip_numbers(self, filenames: Sequence[str]) -> np.ndarray:
        """Numbers of clips by name.

        Raises:
            InputError: a clip is not in the reference.
        """
        numbers = self._clips.get_indexer(list(filenames))
        outside = np.flatnonzero((numbers < 0) | (numbers >= len(self.files)))
        if len(outside):
            raise InputError(
                f"{filenames[outside[0]]} is not in the reference; a clip without events needs a "
                "row there with its filename alone"
            )
        return numbers

    def event_based(
        self, estimated: Detections, *, collar: float = 0.2, offset_ratio: float = 0.2
    ) -> Scores:
        """Event-based F1, as :func:`reference.event_based`."""
        counts = self.event_counts(estimated, collar=collar, offset_ratio=offset_ratio)
        table = self._table(*counts.sum(axis=0).T)
        return scores_from_counts(table, undefined=table["n_ref"] == 0)

    def event_counts(
        self, estimated: Detections, *, collar: float = 0.2, offset_ratio: float = 0.2
    ) -> np.ndarray:
        """Numbers of reference events, estimated events and true positives.

        Returns:
            Integers `(clips, classes, 3)`: clips in the order of `files`, classes of `classes`.
        """
        metrics.check_collar(collar, offset_ratio)
        found = self._of_reference(estimated)
        reference = self.reference
        est, ref = _pairs(self._key(found), self._key(reference))
        tolerance = np.maximum(collar, offset_ratio * (reference.offset - reference.onset))
        hit = np.abs(reference.onset[ref] - found.onset[est]) <= collar
        hit &= np.abs(reference.offset[ref] - found.offset[est]) <= tolerance[ref]
        matched = np.zeros(0, dtype=int)
        if hit.any():
            graph = csr_array(
                (np.ones(hit.sum(), dtype=bool), (ref[hit], est[hit])),
                shape=(len(reference.clip), len(found.clip)),
            )
            matched = np.flatnonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0)
        keys = self._key(reference), self._key(found), self._key(reference)[matched]
        shape = len(self.files), len(self.classes)
        return np.stack(
            [np.bincount(key, minlength=shape[0] * shape[1]).reshape(shape) for key in keys],
            axis=-1,
        )

    def segment_based(self, estimated: Detections, *, resolution: float = 1.0) -> Scores:
        """Segment-based F1, as :func:`reference.segment_based`."""
        if not resolution > 0:
            raise InputError(f"resolution is {resolution}; give a time above 0 seconds")
        found = self._of_reference(estimated)
        ends = [0.0, *self.reference.offset, *found.offset]
        segments = int(np.ceil(max(ends) / resolution))
        truth, claim = (
            self._roll(events, resolution, segments) for events in (self.reference, found)
        )
        table = self._table(truth.sum((0, 2)), claim.sum((0, 2)), (truth & claim).sum((0, 2)))
        return scores_from_counts(table, undefined=(table["n_ref"] == 0) | (table["n_est"] == 0))

    def intersection_based(self, estimated: Detections) -> Scores:
        """Intersection-based F1, as :func:`reference.intersection_based`."""
        found = self._of_durations(estimated, "the estimates")
        overlaps = self._overlaps(found)
        criteria = metrics.INTERSECTION
        confusion, _ = self._confusion(found, overlaps, criteria["dtc"], criteria["gtc"])
        table = self._table(
            np.bincount(self.solid.label, minlength=len(self.classes)),
            np.bincount(found.label, minlength=len(self.classes)),
            np.diag(confusion),
            confusion[:, -1],
        )
        table = table[table["n_ref"] > 0]
        return scores_from_counts(table, undefined=table["tp"] == 0)

    def psds(self, operating_points: Mapping[float, Detections]) -> tuple[float, float]:
        """PSDS of scenarios 1 and 2, as :func:`reference.psds`."""
        if not operating_points:
            raise InputError(
                "operating_points is empty; give detections for at least one threshold"
            )
        confusions: dict[int, list[np.ndarray]] = {1: [], 2: []}
        for threshold, table in operating_points.items():
            found = self._of_durations(table, f"the estimates at threshold {threshold}")
            overlaps = self._overlaps(found)
            for scenario, collected in confusions.items():
                criteria, weights = metrics.scenario_settings(scenario)
                confusion, wrong = self._confusion(
                    found, overlaps, criteria["dtc"], criteria["gtc"]
                )
                if weights["alpha_ct"]:
                    confusion[:, :-1] += self._cross_triggers(found, wrong, criteria["cttc"])
                collected.append(confusion)
        first, second = (
            self._psds(np.stack(collected), **metrics.scenario_settings(scenario)[1])
            for scenario, collected in confusions.items()
        )
        return first, second

    def _numbers(self, events: pd.DataFrame) -> Events:
        return Events(
            self._clips.get_indexer(events["filename"]),
            self._labels.get_indexer(events["event_label"]),
            events["onset"].to_numpy(float),
            events["offset"].to_numpy(float),
        )

    def _sorted(self, events: Events) -> Events:
        order = np.lexsort((events.onset, self._key(events)))
        return Events(*(column[order] for column in events))

    def _key(self, events: Events) -> np.ndarray:
        """One number for each clip and class."""
        return events.clip * len(self.classes) + events.label

    def _of_reference(self, estimated: Detections) -> Events:
        """Detections, all in clips of the reference."""
        if isinstance(estimated, Events):
            return estimated
        if estimated.empty:
            return self._none()
        files, events = metrics.check_events(estimated, "the estimates")
        self.clip_numbers(files)
        return self._known(events, "the estimates")

    def _of_durations(self, estimated: Detections, name: str) -> Events:
        """Detections longer than zero seconds, of classes of the reference."""
        if self.lengths.empty:
            raise InputError("there are no durations; intersection-based scores and PSDS need them")
        if not isinstance(estimated, Events):
            table = metrics.detections(estimated, self.lengths, name)
            estimated = self._none() if table.empty else self._known(table, name)
        in_reference = np.isin(np.arange(len(self.classes)), self.solid.label)
        keep = (estimated.offset > estimated.onset) & in_reference[estimated.label]
        return Events(*(column[keep] for column in estimated))

    def _none(self) -> Events:
        return Events(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))

    def _known(self, events: pd.DataFrame, name: str) -> Events:
        unknown = set(events["event_label"]) - set(self.classes)
        if unknown:
            raise InputError(
                f"{name} hold the class {min(unknown)!r}, which is none of "
                f"{', '.join(self.classes)}"
            )
        return self._sorted(self._numbers(events))

    def _table(
        self, n_ref: np.ndarray, n_est: np.ndarray, tp: np.ndarray, fp: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Counts of the classes that occur; every other detection is a false positive."""
        counts = {"n_ref": n_ref, "n_est": n_est, "tp": tp, "fp": n_est - tp if fp is None else fp}
        table = pd.DataFrame(counts, index=self.classes)
        return table[(table["n_ref"] > 0) | (table["n_est"] > 0)]

    def _roll(self, events: Events, resolution: float, segments: int) -> np.ndarray:
        """Activity `(clips, classes, segments)`."""
        edges = np.zeros((len(self.files) * len(self.classes), segments + 1), dtype=np.int32)
        key = self._key(events)
        np.add.at(edges, (key, np.floor(events.onset / resolution).astype(int)), 1)
        np.add.at(edges, (key, np.ceil(events.offset / resolution).astype(int)), -1)
        active = edges[:, :-1].cumsum(axis=1) > 0
        return active.reshape(len(self.files), len(self.classes), segments)

    def _overlaps(self, found: Events) -> Overlaps:
        est, ref = _pairs(self._key(found), self._key(self.solid))
        return self._intersecting(found, est, ref)

    def _intersecting(self, found: Events, est: np.ndarray, ref: np.ndarray) -> Overlaps:
        truth = self.solid
        together = found.onset[est] < truth.offset[ref]
        together &= truth.onset[ref] < found.offset[est]
        est, ref = est[together], ref[together]
        seconds = np.minimum(found.offset[est], truth.offset[ref]) - np.maximum(
            found.onset[est], truth.onset[ref]
        )
        return Overlaps(est, ref, seconds)

    def _confusion(
        self, found: Events, overlaps: Overlaps, dtc: float, gtc: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives.

        Returns:
            Counts `(classes, classes + 1)` with true positives on the diagonal and false
            positives in the last column, and the rows of the detections that fail the DTC.
        """
        classes = len(self.classes)
        length = found.offset - found.onset
        precision = _sums(
            overlaps.estimated,
            overlaps.seconds / length[overlaps.estimated],
            len(length),
        )
        relevant = precision >= dtc
        used = relevant[overlaps.estimated]
        length = self.solid.offset - self.solid.onset
        coverage = _sums(
            overlaps.reference[used],
            overlaps.seconds[used] / length[overlaps.reference[used]],
            len(length),
        )
        hit = coverage >= gtc
        in_clip = (found.onset < self.duration[found.clip]) & (found.offset > 0)
        counts = np.zeros((classes, classes + 1))
        counts[np.arange(classes), np.arange(classes)] = np.bincount(
            self.solid.label[hit], minlength=classes
        )
        counts[:, -1] = np.bincount(found.label[~relevant & in_clip], minlength=classes)
        return counts, np.flatnonzero(~relevant)

    def _cross_triggers(self, found: Events, wrong: np.ndarray, cttc: float) -> np.ndarray:
        """Detections without the DTC that lie on events of another class `(classes, classes)`."""
        classes = len(self.classes)
        est, ref = _pairs(found.clip[wrong], self.solid.clip)
        est = wrong[est]
        other = found.label[est] != self.solid.label[ref]
        overlaps = self._intersecting(found, est[other], ref[other])
        length = found.offset - found.onset
        group = overlaps.estimated * classes + self.solid.label[overlaps.reference]
        groups, group = np.unique(group, return_inverse=True)
        share = _sums(group, overlaps.seconds / length[overlaps.estimated], len(groups))
        est, label = np.divmod(groups[share >= cttc], classes)
        return np.bincount(found.label[est] * classes + label, minlength=classes * classes).reshape(
            classes, classes
        )

    def _psds(self, confusions: np.ndarray, alpha_ct: float, alpha_st: float) -> float:
        """Area under the PSD-ROC from confusions `(points, classes, classes + 1)`."""
        classes = np.unique(self.solid.label)
        everywhere = np.zeros((1, *confusions.shape[1:]))
        counts = np.concatenate([confusions, everywhere])[:, classes]
        seconds = np.bincount(self.solid.label, self.solid.offset - self.solid.onset)[classes]
        events = np.bincount(self.solid.label)[classes]
        hits = counts[:, np.arange(len(classes)), classes] / events
        rate = counts[:, :, -1] * SECONDS_PER_HOUR / self.lengths["duration"].sum()
        if alpha_ct and len(classes) > 1:
            crossed = counts[:, :, classes] * SECONDS_PER_HOUR / seconds
            crossed[:, np.arange(len(classes)), np.arange(len(classes))] = 0
            rate = rate + alpha_ct * crossed.sum(axis=2) / (len(classes) - 1)
        rates = np.unique(rate)
        curves = np.stack([_staircase(rates, *points) for points in zip(rate.T, hits.T)])
        height = np.maximum(curves.mean(axis=0) - alpha_st * curves.std(axis=0), 0)
        inside = rates < metrics.MAX_EFPR
        widths = np.diff(np.append(rates[inside], metrics.MAX_EFPR))
        return float((widths * height[inside]).sum() / metrics.MAX_EFPR)


def _pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all pairs of equal keys; `right` is sorted.

    Example:
        >>> _pairs(np.array([7, 3]), np.array([3, 3, 7]))
        (array([0, 1, 1]), array([2, 0, 1]))
    """
    first = np.searchsorted(right, left, side="left")
    count = np.searchsorted(right, left, side="right") - first
    rows = np.repeat(np.arange(len(left)), count)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    return rows, first[rows] + place


def _sums(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Sums by group, with pandas' compensation of rounding.

    psds_eval sums through pandas, and whether a sum reaches 0.7 may hang on its last digit.
    """
    total, lost = np.zeros(groups), np.zeros(groups)
    order = np.argsort(group, kind="stable")
    group, values = group[order], values[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    place = np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))
    for turn in range(place.max(initial=-1) + 1):
        now = place == turn
        at = group[now]
        term = values[now] - lost[at]
        new = total[at] + term
        lost[at] = new - total[at] - term
        total[at] = new
    return total


def _staircase(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Highest y of the points up to each `at`, 0 before the first.

    Example:
        >>> _staircase(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.0, 1.0]), np.array([0.3, 0.4]))
        array([0. , 0.4, 0.4, 0.4])
    """
    order = np.argsort(x, kind="stable")
    best = np.append(0.0, np.maximum.accumulate(y[order]))
    return best[np.searchsorted(x[order], at, side="right")]
