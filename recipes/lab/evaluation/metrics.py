"""What every score shares: the settings of DCASE Task 4, checked tables, F1 from counts.

References and estimates are DataFrames with the columns filename, onset, offset (seconds) and
event_label, as in the DESED tsv files. A row without a label stands for a clip without events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import pandas as pd

from lab.errors import InputError

COLUMNS = ["filename", "onset", "offset", "event_label"]
#: Criteria of the intersection-based F1.
INTERSECTION = {"dtc": 0.5, "gtc": 0.5, "cttc": 0.3}
#: Criteria and weights of the two PSDS scenarios of DCASE 2021 Task 4.
SCENARIOS = {
    1: ({"dtc": 0.7, "gtc": 0.7, "cttc": 0.3}, {"alpha_ct": 0.0, "alpha_st": 1.0}),
    2: ({"dtc": 0.1, "gtc": 0.1, "cttc": 0.3}, {"alpha_ct": 0.5, "alpha_st": 1.0}),
}
#: Effective false positives an hour up to which PSDS integrates.
MAX_EFPR = 100.0


@dataclass(frozen=True)
class Scores:
    """F1 of one set of detections, in [0, 1].

    Attributes:
        macro_f1: mean over classes, as the official evaluation reports it. Segment-based, a class
            that is never predicted is left out there; intersection-based, a class without a true
            positive is. 0.0 when no class is left.
        micro_f1: F1 of the counts summed over the classes.
        strict_macro_f1: the mean over every class of the reference, 0 for one that is never found.
        classwise: one row a class (index "class") with f1, precision, recall (NaN where the
            official evaluation leaves the class out), n_ref, n_est, tp and fp (events, or
            segments for segment-based scores).
    """

    macro_f1: float
    micro_f1: float
    strict_macro_f1: float
    classwise: pd.DataFrame


def scenario_settings(scenario: int) -> tuple[dict[str, float], dict[str, float]]:
    """Criteria (dtc, gtc, cttc) and weights (alpha_ct, alpha_st) of PSDS scenario 1 or 2."""
    if scenario not in SCENARIOS:
        raise InputError(f"scenario is {scenario!r}; give 1 or 2")
    return SCENARIOS[scenario]


def check_collar(collar: float, offset_ratio: float) -> None:
    """Raise unless the collar is above 0 seconds and the ratio lies in [0, 1]."""
    if not (collar > 0 and 0 <= offset_ratio <= 1):
        raise InputError(
            f"collar is {collar} and offset_ratio {offset_ratio}; give a time above 0 seconds "
            "and a ratio in [0, 1]"
        )


def scores_from_counts(counts: pd.DataFrame, undefined: Sequence[bool]) -> Scores:
    """F1 from counts of each class.

    Args:
        counts: index the classes; columns n_ref, n_est, tp, fp.
        undefined: the classes that the official evaluation leaves out of the macro average.

    Example:
        >>> counts = pd.DataFrame(
        ...     {"n_ref": [2, 2], "n_est": [2, 0], "tp": [2, 0], "fp": [0, 0]}, index=["Cat", "Dog"]
        ... )
        >>> scores = scores_from_counts(counts, undefined=[False, True])
        >>> scores.macro_f1, scores.strict_macro_f1, round(scores.micro_f1, 3)
        (1.0, 0.5, 0.667)
    """
    table = counts.astype(float)
    found, claimed = table["tp"], table["tp"] + table["fp"]
    strict = (2 * found / (table["n_ref"] + claimed)).fillna(0.0)
    defined = ~np.asarray(undefined, dtype=bool)
    precision = (found / claimed).fillna(0.0)
    recall = found / table["n_ref"]
    rates = pd.DataFrame({"f1": strict, "precision": precision, "recall": recall})
    rates[~defined] = np.nan
    total = table["n_ref"].sum() + claimed.sum()
    in_reference = strict[table["n_ref"] > 0]
    classwise = pd.concat([rates, counts[["n_ref", "n_est", "tp", "fp"]].astype(int)], axis=1)
    return Scores(
        macro_f1=float(strict[defined].mean()) if defined.any() else 0.0,
        micro_f1=float(2 * found.sum() / total) if total else 0.0,
        strict_macro_f1=float(in_reference.mean()) if len(in_reference) else 0.0,
        classwise=classwise.rename_axis("class"),
    )


def check_events(table: pd.DataFrame, name: str) -> tuple[list[str], pd.DataFrame]:
    """Check a table of events.

    Args:
        table: columns filename, onset, offset, event_label.
        name: what the table is, for the error message.

    Returns:
        The filenames in order of appearance, and a new table of the rows with a label.

    Raises:
        InputError: a column lacks, a time is not a number, or an onset lies after its offset.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            f"{name} lacks the column {missing[0]!r} (it has {', '.join(map(str, table.columns))});"
            f" give {', '.join(COLUMNS)}"
        )
    if table["filename"].isna().any():
        raise InputError(f"{name} has a row without filename; every row names its clip")
    events = table.loc[table["event_label"].notna(), COLUMNS].reset_index(drop=True)
    for column in ("onset", "offset"):
        seconds = pd.to_numeric(events[column], errors="coerce").astype(float)
        wrong = ~np.isfinite(seconds) | (seconds < 0)
        if wrong.any():
            row = events[wrong].iloc[0]
            raise InputError(
                f"{name}: {row['event_label']} in {row['filename']} has the {column} "
                f"{row[column]}; give seconds >= 0"
            )
        events[column] = seconds
    late = events[events["onset"] > events["offset"]]
    if len(late):
        row = late.iloc[0]
        raise InputError(
            f"{name}: {row['event_label']} in {row['filename']} has its onset {row['onset']} s "
            f"after its offset {row['offset']} s"
        )
    return list(table["filename"].unique()), events


def reference_and_durations(
    reference: pd.DataFrame, durations: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check a reference against the durations of its clips, for intersection-based metrics.

    Returns:
        The events of the reference without those of length zero, which nothing can intersect,
        and filename and duration of every clip.

    Raises:
        InputError: a table cannot be used, events of one class overlap in a clip, a clip of the
            reference has no duration, or there is no event at all.
    """
    files, events = check_events(reference, "the reference")
    for column in ("filename", "duration"):
        if column not in durations.columns:
            raise InputError(f"the durations lack the column {column!r}; give filename, duration")
    lengths = durations[["filename", "duration"]].drop_duplicates().reset_index(drop=True)
    lengths["duration"] = pd.to_numeric(lengths["duration"], errors="coerce").astype(float)
    wrong = ~(np.isfinite(lengths["duration"]) & (lengths["duration"] > 0))
    if wrong.any():
        row = durations.drop_duplicates().reset_index(drop=True)[wrong].iloc[0]
        raise InputError(
            f"the duration of {row['filename']} is {row['duration']}; give a time above 0 seconds"
        )
    twice = lengths["filename"][lengths["filename"].duplicated()]
    if len(twice):
        raise InputError(f"{twice.iloc[0]} has two durations; give each clip one")
    unknown = set(files) - set(lengths["filename"])
    if unknown:
        raise InputError(f"{min(unknown)} of the reference has no duration; add it to the table")
    refuse_overlap(events, "the reference")
    events = events[events["onset"] < events["offset"]].reset_index(drop=True)
    if events.empty:
        raise InputError("the reference holds no event; intersection-based scores need one")
    return events, lengths


def detections(table: pd.DataFrame, lengths: pd.DataFrame, name: str) -> pd.DataFrame:
    """Detected events longer than zero seconds, checked against the clips with a duration."""
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    files, events = check_events(table, name)
    unknown = set(files) - set(lengths["filename"])
    if unknown:
        raise InputError(f"{min(unknown)} of {name} has no duration; add it to the table")
    refuse_overlap(events, name)
    return events[events["onset"] < events["offset"]].reset_index(drop=True)


def refuse_overlap(events: pd.DataFrame, name: str) -> None:
    """Raise when events of one class overlap in a clip: intersections would count twice."""
    ordered = events.sort_values(["filename", "event_label", "onset", "offset"])
    previous = ordered.shift()
    overlap = (
        (ordered["filename"] == previous["filename"])
        & (ordered["event_label"] == previous["event_label"])
        & (ordered["onset"] < previous["offset"])
    )
    if overlap.any():
        row = ordered[overlap].iloc[0]
        raise InputError(
            f"{name}: {row['event_label']} in {row['filename']} overlaps itself at "
            f"{row['onset']} s; merge overlapping events of one class"
        )


def reference_and_estimates(
    reference: pd.DataFrame, estimated: pd.DataFrame
) -> tuple[list[str], pd.DataFrame, pd.DataFrame]:
    """Clips of the reference, its events, and the estimated events."""
    files, references = check_events(reference, "the reference")
    if estimated.empty:
        return files, references, pd.DataFrame(columns=COLUMNS)
    found, estimates = check_events(estimated, "the estimates")
    unknown = set(found) - set(files)
    if unknown:
        raise InputError(
            f"{min(unknown)} of the estimates is not in the reference; a clip without events "
            "needs a row there with its filename alone"
        )
    return files, references, estimates
