"""Where a system's event-based F1 is lost: what became of each reference and estimated event.

An F1 says how many events were right. The profile says what was wrong with the others: events
that were not found at all, or found with a wrong onset, a wrong offset, both, or in pieces.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.evaluation import metrics
from lab.evaluation.tables import percent

#: What becomes of a reference event, from right to lost.
OF_REFERENCE = ("hit", "onset_wrong", "offset_wrong", "both_wrong", "fragmented", "missed")
#: What an estimated event is.
OF_ESTIMATES = (
    "est_hit",
    "est_duplicate",
    "est_boundary_wrong",
    "est_other_class",
    "est_false_alarm",
)
COLUMNS = ["events", *OF_REFERENCE, "estimated", *OF_ESTIMATES]
#: The row of a profile that sums the classes; no class has a comma in its name.
ALL = "all, together"
#: What a reader of the tables should know.
NOTE = "An onset is right within 0.2 s, an offset within 0.2 s or 20 % of the event."
#: What they should know of the row :data:`OFFICIAL`.
OFFICIAL_NOTE = (
    " Official: the teacher of the DCASE 2021 Task 4 baseline on DESED's validation set, for "
    "comparison."
)
#: Name and counts of the yardstick: the teacher of the DCASE 2021 Task 4 baseline on DESED's
#: validation set (1,168 clips), from its published predictions at threshold 0.5.
OFFICIAL = "official, on DESED"
OFFICIAL_COUNTS = {
    "events": 4224,
    "hit": 1604,
    "onset_wrong": 516,
    "offset_wrong": 536,
    "both_wrong": 390,
    "fragmented": 57,
    "missed": 1121,
    "estimated": 3351,
    "est_hit": 1604,
    "est_duplicate": 4,
    "est_boundary_wrong": 1093,
    "est_other_class": 418,
    "est_false_alarm": 232,
}


def error_profile(
    reference: pd.DataFrame,
    estimated: pd.DataFrame,
    *,
    collar: float = metrics.COLLAR,
    offset_ratio: float = metrics.OFFSET_RATIO,
) -> pd.DataFrame:
    """Count what became of each reference event and what each estimated event is.

    Events overlap when they share some time. Onset and offset are right as in the event-based
    F1: within the collar, an offset also within `offset_ratio` of the reference event's length.

    Each reference event is judged by itself, by the estimated events of its class that overlap
    it (so one estimate may serve two events):

    - `hit`: one of them has the onset and the offset right;
    - `fragmented`: not so, but one has the onset right and another the offset;
    - `onset_wrong`: some offset is right, no onset;
    - `offset_wrong`: some onset is right, no offset;
    - `both_wrong`: no onset and no offset is right;
    - `missed`: none overlaps it.

    Each estimated event is the first of these that fits:

    - `est_hit`: it hits a reference event, each of which takes one estimate (with as many pairs
      as possible, so these are the true positives of the event-based F1, but for detections
      within the collar that do not overlap their event);
    - `est_duplicate`: it would hit an event that another one has taken, or every event of its
      class that it overlaps is hit by others: without it, nothing would be lost;
    - `est_boundary_wrong`: it overlaps an event of its class that is not hit;
    - `est_other_class`: it overlaps events of other classes only;
    - `est_false_alarm`: it overlaps no event.

    Args:
        reference: annotated events; its filenames are the clips that are evaluated.
        estimated: detected events.
        collar: allowed difference of onsets, and of offsets, in seconds.
        offset_ratio: an offset may also be off by this part of the reference event's length.

    Returns:
        Integers, one row a class of either table, sorted, and a last row :data:`ALL`; the columns
        events, those of :data:`OF_REFERENCE`, which add up to it, estimated, and those of
        :data:`OF_ESTIMATES`, which add up to that.

    Raises:
        InputError: the estimates hold a clip that the reference lacks.

    Example:
        >>> columns = ["filename", "onset", "offset", "event_label"]
        >>> reference = pd.DataFrame(
        ...     [["a.wav", 1.0, 3.0, "Dog"], ["a.wav", 5.0, 7.0, "Dog"]], columns=columns
        ... )
        >>> estimated = pd.DataFrame(
        ...     [["a.wav", 1.1, 3.1, "Dog"], ["a.wav", 5.5, 7.0, "Dog"]], columns=columns
        ... )
        >>> profile = error_profile(reference, estimated)
        >>> profile.loc["Dog", ["events", "hit", "onset_wrong", "est_boundary_wrong"]].tolist()
        [2, 1, 1, 1]
    """
    references, estimates = metrics.reference_and_estimates(reference, estimated)
    labels = sorted({*references["event_label"], *estimates["event_label"]})
    counts = {
        "events": references["event_label"].value_counts(),
        "estimated": estimates["event_label"].value_counts(),
    }
    outcomes = _judge(references, estimates, collar, offset_ratio)
    for table, kinds in zip((references, estimates), outcomes):
        for name, those in kinds.items():
            counts[name] = table["event_label"][those].value_counts()
    profile = pd.DataFrame(counts, index=labels, columns=COLUMNS).fillna(0).astype(int)
    profile.loc[ALL] = profile.sum()
    return profile.rename_axis("class")


def _judge(
    references: pd.DataFrame, estimates: pd.DataFrame, collar: float, offset_ratio: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Boolean masks of the reference events and of the estimated events, by outcome."""
    sizes = len(references), len(estimates)
    pairs = references.assign(ref=np.arange(sizes[0])).merge(
        estimates.assign(est=np.arange(sizes[1])), on="filename", suffixes=("", "_found")
    )
    onset, offset, onset_found, offset_found = (
        pairs[name].to_numpy(float) for name in ("onset", "offset", "onset_found", "offset_found")
    )
    same = (pairs["event_label"] == pairs["event_label_found"]).to_numpy(bool)
    overlap = np.minimum(offset, offset_found) > np.maximum(onset, onset_found)
    onset_right = np.abs(onset - onset_found) <= collar
    offset_right = np.abs(offset - offset_found) <= np.maximum(
        collar, offset_ratio * (offset - onset)
    )
    ref, est = pairs["ref"].to_numpy(int), pairs["est"].to_numpy(int)
    met = overlap & same
    exact = met & onset_right & offset_right

    partner, hit, some_onset, some_offset = (
        _present(ref[these], sizes[0])
        for these in (met, exact, met & onset_right, met & offset_right)
    )
    of_reference = {
        "hit": hit,
        "fragmented": ~hit & some_onset & some_offset,
        "onset_wrong": ~some_onset & some_offset,
        "offset_wrong": some_onset & ~some_offset,
        "both_wrong": partner & ~some_onset & ~some_offset,
        "missed": ~partner,
    }

    matched = _present(metrics.matched(ref[exact], est[exact], sizes), sizes[1])
    could_hit, wanted, own, any_class = (
        _present(est[these], sizes[1]) for these in (exact, met & ~hit[ref], met, overlap)
    )
    duplicate = ~matched & (could_hit | (own & ~wanted))
    of_estimates = {
        "est_hit": matched,
        "est_duplicate": duplicate,
        "est_boundary_wrong": own & ~matched & ~duplicate,
        "est_other_class": any_class & ~own,
        "est_false_alarm": ~any_class,
    }
    return of_reference, of_estimates


def _present(numbers: np.ndarray, size: int) -> np.ndarray:
    """Mask of the numbers that occur."""
    return np.bincount(numbers, minlength=size) > 0


def pooled(profiles: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Sum of the profiles of several trials on the same clips, a row a class and :data:`ALL`."""
    total = pd.concat(list(profiles)).groupby(level=0).sum()
    return total.loc[[*total.index.drop(ALL), ALL]]


def of_systems(profiles: Mapping[str, pd.DataFrame], *, official: bool = True) -> pd.DataFrame:
    """Counts over all classes, one row a system.

    Args:
        profiles: by name of the system.
        official: add the row :data:`OFFICIAL`, a yardstick for DESED's classes.
    """
    rows: dict[str, Mapping] = {name: profile.loc[ALL] for name, profile in profiles.items()}
    if official:
        rows[OFFICIAL] = OFFICIAL_COUNTS
    return pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)


def profile_table(counts: pd.DataFrame, of: str = "events") -> pd.DataFrame:
    """Show counts in percent.

    Args:
        counts: rows of a profile, or of :func:`of_systems`.
        of: "events" for what became of the reference events, "estimated" for what the estimated
            events are.

    Returns:
        The number of events and the shares of the outcomes, as text; a dash where there is none.
    """
    outcomes = OF_REFERENCE if of == "events" else OF_ESTIMATES
    shares = counts[list(outcomes)].div(counts[of].where(counts[of] > 0), axis=0)
    table = shares.apply(lambda column: column.map(percent))
    table.insert(0, of, counts[of].map("{:,}".format))
    return table.rename(columns=readable).rename_axis(None)


def profile_text(counts: pd.DataFrame) -> str:
    """Both tables of :func:`profile_table`, to be printed."""
    return "\n".join(
        [
            "What became of the reference events (%)",
            profile_table(counts).to_string(),
            "",
            "What the estimated events are (%)",
            profile_table(counts, "estimated").to_string(),
        ]
    )


def readable(column: str) -> str:
    """Name of an outcome for a reader.

    Example:
        >>> readable("est_false_alarm")
        'false alarm'
    """
    return (column[4:] if column.startswith("est_") else column).replace("_", " ")
