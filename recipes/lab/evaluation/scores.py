"""The scores of :mod:`reference`, fast: the same values from arrays of intervals.

sed_eval and psds_eval compare events one by one and through merged tables; here clips and
classes are handled in one go. The tests hold every value against :mod:`reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import pandas as pd

from lab.errors import InputError
from lab.evaluation import metrics
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

    def part(self, kept: np.ndarray) -> Events:
        """Some of the events, or all in another order."""
        return Events(*(column[kept] for column in self))


#: Numbers of estimated and of reference events that intersect, pair by pair, and for how long.
Overlaps = Tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """All scores of one model on one set of clips.

    F1 is taken at one threshold: event-based (200 ms, 20 %), segment-based (1 s), and
    intersection-based (dtc = gtc = 0.5). PSDS, of scenarios 1 and 2, is from operating points.
    """

    event: Scores
    segment: Scores
    intersection: Scores
    psds1: float
    psds2: float

    def summary(self) -> dict[str, float]:
        """The scores by name, all in [0, 1]."""
        named: dict[str, float] = {}
        for name in ("event", "segment", "intersection"):
            scores: Scores = getattr(self, name)
            named[f"{name}_f1_macro"] = scores.macro_f1
            named[f"{name}_f1_micro"] = scores.micro_f1
            named[f"{name}_f1_macro_strict"] = scores.strict_macro_f1
        return {**named, "psds_score_scenario1": self.psds1, "psds_score_scenario2": self.psds2}


class Scorer:
    """Scores against one reference, which is prepared once.

    References and detections are tables as in :mod:`metrics`; every detection must lie in a clip of
    the reference.

    Args:
        reference: annotated events; its filenames are the clips that are evaluated.
        durations: columns filename and duration (seconds), one row a clip. Without it, there is
            no intersection-based score and no PSDS.
        classes: class names that detections may have beside those of the reference.

    Attributes:
        files: filenames of the reference, in its order.
        classes: sorted class names.

    Raises:
        InputError: there are durations, but a clip has none, events of one class overlap in a clip,
            or there is no event at all.
    """

    def __init__(
        self,
        reference: pd.DataFrame,
        durations: pd.DataFrame | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.files, events = metrics.split(reference)
        self.classes = sorted({*events["event_label"], *classes})
        self.reference = self._events(reference, "the reference")
        # Intersections are counted on events longer than zero seconds.
        self.solid = self.reference.part(self.reference.onset < self.reference.offset)
        self.seconds = 0.0
        if durations is None:
            return
        missing = set(self.files) - set(durations["filename"])
        if missing:
            raise InputError(
                f"{min(missing)} of the reference has no duration; add it to the table"
            )
        self._refuse_overlap(self.reference, "the reference")
        if not len(self.solid.clip):
            raise InputError("the reference holds no event; intersection-based scores need one")
        self.seconds = durations["duration"].sum()
        self.ends = durations.set_index("filename")["duration"].reindex(self.files).to_numpy()

    def evaluate(
        self, estimated: pd.DataFrame, operating_points: Mapping[float, pd.DataFrame]
    ) -> Evaluation:
        """All scores of detections at one threshold and, for PSDS, at several."""
        return Evaluation(
            self.event_based(estimated),
            self.segment_based(estimated),
            self.intersection_based(estimated),
            *self.psds(operating_points),
        )

    def event_based(self, estimated: pd.DataFrame) -> Scores:
        """Event-based F1, as :func:`reference.event_based`."""
        table = self._table(*self.event_counts(estimated).sum(axis=0).T)
        return scores_from_counts(table, undefined=table["n_ref"] == 0)

    def event_counts(self, estimated: pd.DataFrame) -> np.ndarray:
        """Numbers of reference events, estimated events and true positives.

        Returns:
            Integers `(clips, classes, 3)`: clips in the order of `files`, classes of `classes`.
        """
        estimates, truth = self._events(estimated), self.reference
        est, ref = _pairs(self._key(estimates), self._key(truth))
        tolerance = np.maximum(metrics.COLLAR, metrics.OFFSET_RATIO * (truth.offset - truth.onset))
        hit = np.abs(truth.onset[ref] - estimates.onset[est]) <= metrics.COLLAR
        hit &= np.abs(truth.offset[ref] - estimates.offset[est]) <= tolerance[ref]
        matched = metrics.matched(ref[hit], est[hit], (len(truth.clip), len(estimates.clip)))
        keys = self._key(truth), self._key(estimates), self._key(estimates)[matched]
        shape = len(self.files), len(self.classes)
        return np.stack(
            [np.bincount(key, minlength=shape[0] * shape[1]).reshape(shape) for key in keys],
            axis=-1,
        )

    def segment_based(self, estimated: pd.DataFrame) -> Scores:
        """Segment-based F1 over seconds, as :func:`reference.segment_based`."""
        estimates = self._events(estimated)
        segments = int(np.ceil(max([0.0, *self.reference.offset, *estimates.offset])))
        truth, claim = (self._activity(events, segments) for events in (self.reference, estimates))
        table = self._table(truth.sum((0, 2)), claim.sum((0, 2)), (truth & claim).sum((0, 2)))
        return scores_from_counts(table, undefined=(table["n_ref"] == 0) | (table["n_est"] == 0))

    def intersection_based(self, estimated: pd.DataFrame) -> Scores:
        """Intersection-based F1, as :func:`reference.intersection_based`."""
        estimates = self._solid_events(estimated, "the estimates")
        pairs = _pairs(self._key(estimates), self._key(self.solid))
        confusion, _ = self._confusion(
            estimates, self._overlaps(estimates, *pairs), **metrics.INTERSECTION
        )
        n_ref, n_est = (
            np.bincount(events.label, minlength=len(self.classes))
            for events in (self.solid, estimates)
        )
        table = self._table(n_ref, n_est, np.diag(confusion), confusion[:, -1])
        table = table[table["n_ref"] > 0]
        return scores_from_counts(table, undefined=table["tp"] == 0)

    def psds(self, operating_points: Mapping[float, pd.DataFrame]) -> tuple[float, float]:
        """PSDS of scenarios 1 and 2, as :func:`reference.psds`."""
        confusions: dict[int, list[np.ndarray]] = {1: [], 2: []}
        for threshold, table in operating_points.items():
            estimates = self._solid_events(table, f"the estimates at threshold {threshold}")
            overlaps = self._overlaps(
                estimates, *_pairs(self._key(estimates), self._key(self.solid))
            )
            for scenario, collected in confusions.items():
                criteria, weights = metrics.SCENARIOS[scenario]
                confusion, wrong = self._confusion(estimates, overlaps, **criteria)
                if weights["alpha_ct"]:
                    confusion[:, :-1] += self._cross_triggers(estimates, wrong, criteria["cttc"])
                collected.append(confusion)
        first, second = (
            self._psds(np.stack(collected), **metrics.SCENARIOS[scenario][1])
            for scenario, collected in confusions.items()
        )
        return first, second

    def _events(self, table: pd.DataFrame, name: str = "the estimates") -> Events:
        """Events of a table by number, sorted by clip, class and time."""
        files, events = metrics.split(table)
        metrics.refuse_unknown(files, self.files)
        unknown = set(events["event_label"]) - set(self.classes)
        if unknown:
            raise InputError(
                f"{name} hold the class {min(unknown)!r}, which is none of "
                f"{', '.join(self.classes)}"
            )
        estimates = Events(
            pd.Index(self.files).get_indexer(events["filename"]),
            pd.Index(self.classes).get_indexer(events["event_label"]),
            events["onset"].to_numpy(),
            events["offset"].to_numpy(),
        )
        return estimates.part(np.lexsort((estimates.offset, estimates.onset, self._key(estimates))))

    def _solid_events(self, table: pd.DataFrame, name: str) -> Events:
        """Events longer than zero seconds, of classes of the reference."""
        if not self.seconds:
            raise InputError("there are no durations; intersection-based scores and PSDS need them")
        estimates = self._events(table, name)
        self._refuse_overlap(estimates, name)
        return estimates.part(
            (estimates.offset > estimates.onset)
            & np.isin(estimates.label, np.unique(self.solid.label))
        )

    def _refuse_overlap(self, events: Events, name: str) -> None:
        """Raise when events of one class overlap in a clip: intersections would count twice."""
        key = self._key(events)
        overlap = (key[1:] == key[:-1]) & (events.onset[1:] < events.offset[:-1])
        if overlap.any():
            row = int(overlap.argmax()) + 1
            raise InputError(
                f"{name}: {self.classes[events.label[row]]} in {self.files[events.clip[row]]} "
                f"overlaps itself at {events.onset[row]} s; merge overlapping events of one class"
            )

    def _key(self, events: Events) -> np.ndarray:
        """One number for each clip and class."""
        return events.clip * len(self.classes) + events.label

    def _table(
        self, n_ref: np.ndarray, n_est: np.ndarray, tp: np.ndarray, fp: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Counts of the classes that occur; every other detection is a false positive."""
        counts = {"n_ref": n_ref, "n_est": n_est, "tp": tp, "fp": n_est - tp if fp is None else fp}
        table = pd.DataFrame(counts, index=self.classes)
        return table[(table["n_ref"] > 0) | (table["n_est"] > 0)]

    def _activity(self, events: Events, segments: int) -> np.ndarray:
        """Activity in seconds `(clips, classes, segments)`."""
        edges = np.zeros((len(self.files) * len(self.classes), segments + 1), dtype=np.int32)
        key = self._key(events)
        np.add.at(edges, (key, np.floor(events.onset).astype(int)), 1)
        np.add.at(edges, (key, np.ceil(events.offset).astype(int)), -1)
        active = edges[:, :-1].cumsum(axis=1) > 0
        return active.reshape(len(self.files), len(self.classes), segments)

    def _overlaps(self, estimates: Events, est: np.ndarray, ref: np.ndarray) -> Overlaps:
        """Those of the pairs of estimated and reference events that intersect."""
        truth = self.solid
        start = np.maximum(estimates.onset[est], truth.onset[ref])
        seconds = np.minimum(estimates.offset[est], truth.offset[ref]) - start
        kept = seconds > 0
        return est[kept], ref[kept], seconds[kept]

    def _confusion(
        self, estimates: Events, overlaps: Overlaps, *, dtc: float, gtc: float, **_: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives.

        Returns:
            Counts `(classes, classes + 1)` with true positives on the diagonal and false
            positives in the last column, and the rows of the detections that fail the DTC.
        """
        classes, (est, ref, seconds) = len(self.classes), overlaps
        length = estimates.offset - estimates.onset
        relevant = _sums(est, seconds / length[est], len(length)) >= dtc
        used = relevant[est]
        length = self.solid.offset - self.solid.onset
        hit = _sums(ref[used], seconds[used] / length[ref[used]], len(length)) >= gtc
        in_clip = (estimates.onset < self.ends[estimates.clip]) & (estimates.offset > 0)
        counts = np.zeros((classes, classes + 1))
        np.fill_diagonal(counts, np.bincount(self.solid.label[hit], minlength=classes))
        counts[:, -1] = np.bincount(estimates.label[~relevant & in_clip], minlength=classes)
        return counts, np.flatnonzero(~relevant)

    def _cross_triggers(self, estimates: Events, wrong: np.ndarray, cttc: float) -> np.ndarray:
        """Detections without the DTC that lie on events of another class `(classes, classes)`."""
        classes = len(self.classes)
        est, ref = _pairs(estimates.clip[wrong], self.solid.clip)
        est = wrong[est]
        other = estimates.label[est] != self.solid.label[ref]
        est, ref, seconds = self._overlaps(estimates, est[other], ref[other])
        groups, group = np.unique(est * classes + self.solid.label[ref], return_inverse=True)
        share = _sums(group, seconds / (estimates.offset - estimates.onset)[est], len(groups))
        est, label = np.divmod(groups[share >= cttc], classes)
        crossed = np.zeros((classes, classes))
        np.add.at(crossed, (estimates.label[est], label), 1)
        return crossed

    def _psds(self, confusions: np.ndarray, alpha_ct: float, alpha_st: float) -> float:
        """Area under the PSD-ROC from confusions `(points, classes, classes + 1)`."""
        classes = np.unique(self.solid.label)
        everywhere = np.zeros((1, *confusions.shape[1:]))
        counts = np.concatenate([confusions, everywhere])[:, classes]
        seconds = np.bincount(self.solid.label, self.solid.offset - self.solid.onset)[classes]
        events = np.bincount(self.solid.label)[classes]
        hits = counts[:, np.arange(len(classes)), classes] / events
        rate = counts[:, :, -1] * SECONDS_PER_HOUR / self.seconds
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
    """Sums by group, by pandas, as psds_eval's: whether 0.7 is reached may hang on rounding."""
    sums = pd.Series(values).groupby(group).sum()
    return sums.reindex(range(groups), fill_value=0.0).to_numpy()


def _staircase(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Highest y of the points up to each `at`, 0 before the first.

    Example:
        >>> _staircase(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.0, 1.0]), np.array([0.3, 0.4]))
        array([0. , 0.4, 0.4, 0.4])
    """
    order = np.argsort(x, kind="stable")
    best = np.append(0.0, np.maximum.accumulate(y[order]))
    return best[np.searchsorted(x[order], at, side="right")]
