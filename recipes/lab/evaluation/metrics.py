"""What every score shares: the settings of DCASE Task 4, tables of events, F1 from counts.

References and estimates are DataFrames with the columns filename, onset, offset (seconds) and
event_label, as `lab.data.annotations` reads them. A row without a label stands for a clip without
events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lab.errors import InputError

COLUMNS = ["filename", "onset", "offset", "event_label"]
#: How far the onset and the offset of an event may be off, in seconds.
COLLAR = 0.2
#: The part of an event's length that its offset may also be off.
OFFSET_RATIO = 0.2
#: Criteria of the intersection-based F1.
INTERSECTION = {"dtc": 0.5, "gtc": 0.5, "cttc": 0.3}
#: Criteria and weights of the two PSDS scenarios of DCASE 2021 Task 4: 1 wants fast reactions, 2
#: no confusion.
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
    hits, estimates = table["tp"], table["tp"] + table["fp"]
    strict = (2 * hits / (table["n_ref"] + estimates)).fillna(0.0)
    defined = ~np.asarray(undefined, dtype=bool)
    precision = (hits / estimates).fillna(0.0)
    recall = hits / table["n_ref"]
    rates = pd.DataFrame({"f1": strict, "precision": precision, "recall": recall})
    rates[~defined] = np.nan
    total = table["n_ref"].sum() + estimates.sum()
    in_reference = strict[table["n_ref"] > 0]
    classwise = pd.concat([rates, counts[["n_ref", "n_est", "tp", "fp"]].astype(int)], axis=1)
    return Scores(
        macro_f1=float(strict[defined].mean()) if defined.any() else 0.0,
        micro_f1=float(2 * hits.sum() / total) if total else 0.0,
        strict_macro_f1=float(in_reference.mean()) if len(in_reference) else 0.0,
        classwise=classwise.rename_axis("class"),
    )


def split(table: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Filenames of a table in order of appearance, and a new table of its rows with a label."""
    if table.empty:
        return [], pd.DataFrame(columns=COLUMNS).astype({"onset": float, "offset": float})
    events = table.loc[table["event_label"].notna(), COLUMNS].reset_index(drop=True)
    return list(table["filename"].unique()), events.astype({"onset": float, "offset": float})


def reference_and_estimates(
    reference: pd.DataFrame, estimated: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events of the reference, and estimated events.

    Raises:
        InputError: the estimates hold a clip that the reference lacks.
    """
    files, references = split(reference)
    names, estimates = split(estimated)
    refuse_unknown(names, files)
    return references, estimates


def refuse_unknown(clips: Sequence[str], files: Sequence[str]) -> None:
    """Raise for the first clip that is not among the files of a reference."""
    unknown = sorted(set(clips) - set(files))
    if unknown:
        raise InputError(
            f"{unknown[0]} is not in the reference; a clip without events needs a row there with "
            "its filename alone"
        )


def matched(ref: np.ndarray, est: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Estimates of a largest matching: each event takes one estimate, each estimate one event.

    Args:
        ref: numbers of the reference events, one a pair that fits.
        est: of the estimated event of each pair.
        sizes: numbers of reference events and of estimated ones.
    """
    if not len(ref):
        return ref
    graph = csr_array((np.ones(len(ref), dtype=bool), (ref, est)), shape=sizes)
    taken = maximum_bipartite_matching(graph, perm_type="column")
    return taken[taken >= 0]
