"""Error profiles of trials, from what their tests wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Sequence

import pandas as pd

from lab.data.annotations import read_events
from lab.evaluation.boundaries import edge_errors
from lab.evaluation.posteriors import load_posteriors
from lab.evaluation.profile import ALL, error_profile, pooled


def profiles_of_trials(
    folders: Mapping[str, Sequence[Path]], model: str, reference: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Profiles and errors of edges of several systems, each summed over its trials.

    Args:
        folders: of the trials that are finished, by name of the system; one without any is left
            out.
        model: "teacher" or "student", whose detections at threshold 0.5 are judged.
        reference: annotated events of the test set; clips that were not tested do not count.

    Returns:
        As :func:`profile.error_profile` and as :func:`boundaries.edge_errors` return them, by
        name of the system.

    Raises:
        InputError: a test has left no detections.
    """
    profiles, errors = {}, {}
    for name, several in folders.items():
        tables = [events_of_test(folder, model, reference) for folder in several]
        if tables:
            profiles[name] = pooled([error_profile(*pair) for pair in tables])
            errors[name] = pd.concat([edge_errors(*pair) for pair in tables], ignore_index=True)
    return profiles, errors


def profile_of_scores(
    scores: Mapping[str, float], model: str, name: str = "test"
) -> pd.DataFrame | None:
    """Profile over all classes that a test left among its scores; None where it left none.

    Args:
        scores: by their logged names.
        model: "teacher" or "student".
        name: of the set, "test" or "public".
    """
    start = f"{name}/{model}/profile/"
    counts = {name[len(start) :]: int(n) for name, n in scores.items() if name.startswith(start)}
    return pd.DataFrame(counts, index=[ALL]) if counts else None


def has_detections(folder: Path, model: str) -> bool:
    """Whether a test has left what a model detected.

    Of results that were kept, or that another machine's trial gave, there may be scores alone.
    """
    return (folder / "metrics_test" / model / "posteriors.npz").exists()


def events_of_test(
    folder: Path, model: str, reference: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events of the clips that a trial was tested on: annotated, and detected by a model."""
    place = folder / "metrics_test" / model
    clips, _ = load_posteriors(place / "posteriors.npz")
    known = reference[reference["filename"].isin(list(clips))]
    return known, read_events(place / f"predictions_05_{model}.tsv")
