"""The report of a comparison: Markdown tables from the table of results, and the curves."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.data.annotations import read_events, read_reference
from lab.data.classes import are_desed
from lab.evaluation import plots
from lab.evaluation.posteriors import load_posteriors, posteriors_of_test
from lab.evaluation.profile import COLUMNS as PROFILE
from lab.evaluation.profile import NOTE, OFFICIAL, OFFICIAL_COUNTS, profile_table
from lab.evaluation.scores import Scorer
from lab.evaluation.significance import Bootstrap, compare, paired_bootstrap, weight_of
from lab.evaluation.tables import (
    SCORES,
    difference,
    interval,
    markdown,
    mean_and_deviation,
    probability,
)
from lab.files import write_whole
from lab.runs.epochs import mean_epochs
from lab.runs.trials import Trial

MACRO = "event_f1_macro"
VALIDATION = "validation"
#: Curves of the training, where the tables of the epochs have them.
CURVES = [VALIDATION, "loss", "z_norm", "d_boundary", "d_inside", "share", "step_onset"]


def write_report(
    folder: Path, results: pd.DataFrame, trials: Sequence[Trial], reference: str
) -> None:
    """Print the tables of a comparison; write `comparison.md` and `curves.png`.

    Args:
        folder: of the files.
        results: rows of the trials, indexed by test, setting and seed.
        trials: what was compared; their folders may hold detections and epochs.
        reference: setting that the others are held against.
    """
    settings = list(dict.fromkeys(trial.setting for trial in trials))
    parts = [f"    {shlex.join(sys.argv)}"]
    for test in ["test", "public"]:
        if test in results.index.get_level_values("test"):
            of_test = results.loc[test].reindex(settings, level="setting")
            clips = differences_over_clips(trials, test, reference)
            official = are_desed(trials[0].config["data"]["classes"])
            parts += [f"## On the {test} set", *tables(of_test, reference, clips, official)]
    means = {
        setting: mean_epochs([trial.folder for trial in trials if trial.setting == setting])
        for setting in settings
    }
    means = {
        setting: table.rename(columns={"val/obj_metric": VALIDATION})
        for setting, table in means.items()
        if len(table)
    }
    panels = [name for name in CURVES if any(name in table for table in means.values())]
    if panels:
        plots.save(plots.curves(means, panels=panels), folder / "curves")
    text = "\n\n".join(parts)
    print(f"\n{text}\n")
    if panels:
        text += "\n\n![Means of the epochs over the trials](curves.png)"
    write_whole(folder / "comparison.md", f"# Comparison of settings\n\n{text}\n")


def tables(
    results: pd.DataFrame, reference: str, clips: Mapping[str, Bootstrap], official: bool
) -> list[str]:
    """Scores, differences and error profile of the settings on one test set, as Markdown.

    `clips` are the differences of settings to the reference over the test clips; `official` adds
    the error profile of the official baseline.
    """
    trials = {setting: table for setting, table in results.groupby(level="setting", sort=False)}
    known = {setting: table.dropna(subset=[MACRO]) for setting, table in trials.items()}
    titles = {"validation": VALIDATION, **SCORES}
    rows = []
    for setting, table in known.items():
        count, of = str(len(table)), f" of {len(trials[setting])}"
        cells = (mean_and_deviation(table[key].dropna(), name) for key, name in titles.items())
        rows.append([setting, count + of * (len(table) < len(trials[setting])), *cells])
    note = "Validation chose the epoch, and is the only score to choose a setting by."
    if any(len(table) > 1 for table in known.values()):
        note = f"Mean ± standard deviation over the seeds. {note}"
    if any(len(table) < len(trials[setting]) for setting, table in known.items()):
        note += " 1 of 2: the other trial diverged."
    parts = [markdown(["setting", "trials", *titles.values()], rows), note]
    tests = compare(
        reference,
        {setting: table.droplevel("setting")[MACRO].to_dict() for setting, table in known.items()},
    )
    if len(tests):
        parts += [difference_table(tests, clips), f"Macro event F1 in points. {weight_of(tests)}"]
    counts = results.dropna(subset=["events"])[PROFILE].groupby(level="setting", sort=False).sum()
    if len(counts):
        if official:
            counts = pd.concat([counts, pd.DataFrame(OFFICIAL_COUNTS, index=[OFFICIAL])])
        shares = profile_table(counts.astype(int))
        parts += [
            markdown(["reference events (%)", *shares], [[*row] for row in shares.itertuples()]),
            NOTE,
        ]
    return parts


def difference_table(tests: pd.DataFrame, clips: Mapping[str, Bootstrap]) -> str:
    """Table of :func:`lab.evaluation.significance.compare`, with intervals over clips."""
    rows = []
    for setting, test in tests.iterrows():
        over = clips.get(str(setting))
        rows.append(
            [
                setting,
                f"{test['seeds']:g}",
                difference(test),
                interval(over.low, over.high, 2) if over else "-",
                *(probability(test[key]) for key in ("p_t", "p_holm", "p_wilcoxon")),
                "-" if pd.isna(test["needed"]) else f"{test['needed']:g}",
            ]
        )
    names = ["difference [95 % over seeds]", "95 % over clips", "p, paired t", "p, Holm"]
    return markdown(["setting", "seeds", *names, "p, Wilcoxon", "seeds for 2 points"], rows)


def differences_over_clips(
    trials: Sequence[Trial], test: str, reference: str
) -> dict[str, Bootstrap]:
    """Differences of settings to the reference over clips, from detections on this disk."""
    config = trials[0].config
    here: dict[str, dict[int, Path]] = {}
    for trial in trials:
        folder = trial.folder if test == "test" else trial.folder / test
        if has_detections(folder):
            here.setdefault(trial.setting, {})[trial.seed] = folder
    differences = {}
    for setting, folders in here.items():
        both = [seed for seed in folders if seed in here.get(reference, {})]
        if setting != reference and both:
            classes = config["data"]["classes"]
            truth = read_reference(config["data"][f"{test}_tsv"], classes)
            counts = [
                event_counts([of[seed] for seed in both], truth, classes)
                for of in (here[reference], folders)
            ]
            differences[setting] = paired_bootstrap(*counts)
    return differences


def has_detections(folder: Path) -> bool:
    """Whether a test has left here what a model detected; of other machines there are scores."""
    return any(folder.glob("metrics_test/*/posteriors.npz"))


def event_counts(
    folders: Sequence[Path], reference: pd.DataFrame, classes: Sequence[str]
) -> np.ndarray:
    """Event-based counts `(trials, clips, classes, 3)` of the teacher, else the student.

    Clips of the annotated `reference` that were not tested do not count.
    """
    counts = []
    for folder in folders:
        path = posteriors_of_test(folder / "metrics_test")
        clips, _ = load_posteriors(path)
        known = reference[reference["filename"].isin(list(clips))]
        estimated = read_events(path.with_name(f"predictions_05_{path.parent.name}.tsv"))
        counts.append(Scorer(known, classes=classes).event_counts(estimated))
    return np.stack(counts)
