"""Write the tables of results in README.md and docs/*.md from the records of the runs.

    python docs/tables.py

A page asks for a table by a pair of comments, and what lies between them is rewritten:

    <!-- table: parametric_strong -->
    <!-- /table -->

`parametric_strong` is a folder of docs/results that holds <setting>/trial_<n>/trial.json, as
compare_settings.py and train_sed_coherence.py leave it in their --log_dir. After the folder may
stand, in any order, as key=value without spaces:

    kind=scores                    a row a setting, means over its trials (the default)
    kind=seeds                     a row a setting, macro event F1 seed by seed
    kind=profile                   a row a setting, what became of the reference events of its
                                   trials (%), and the official teacher on DESED; below a setting
                                   its difference to the reference over the seeds of both
    kind=detections                the same of what the estimated events are
    kind=differences               a row a setting, the difference of every score to the reference
                                   over the seeds of both, in points (PSDS times 100)
    kind=features                  a row a setting, what the monitor said in the last epoch
    settings=baseline,lags_*       which settings, in this order (default: those with a trial of
                                   these seeds, reference first)
    seeds=42-46                    which seeds (default: all)
    columns=trials,event_f1_macro  which of COLUMNS (default: those with a value, most of them)
    reference=baseline             what the differences are from (the default)
    test=public                    scores on the public set (default: on the test set)

Where more lines follow, each is a row of one table over several folders, a set of clips each:
its title, and the folder with its own options, from which one setting is held against the
reference. Options of the first line, if any, are those of all rows:

    <!-- table: settings=lags_1248_0.3 seeds=52-61
    main job | main_job_confirmation
    recordings | recordings_strong test=public
    -->
    <!-- /table -->

Differences and tests are those of compare_settings.py: of the macro event F1, in points, over the
seeds that both have; Holm's correction is for the settings of the table. What is not known is a
dash. Validation is what the epoch was chosen by. "3 of 5" trials: two have no scores, as they
diverged or are not finished. "(of 3)": of so many trials, as the records of the others have no
error profile.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Mapping

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.errors import InputError, command
from lab.evaluation.profile import (
    ALL,
    OF_ESTIMATES,
    OF_REFERENCE,
    of_systems,
    pooled,
    profile_table,
)
from lab.evaluation.significance import compare_with, paired_test
from lab.evaluation.tables import (
    SCORES,
    interval,
    mean_and_deviation,
    percent,
    points,
    probability,
)
from lab.files import write_whole
from lab.runs.epochs import feature_table, read_epochs
from lab.runs.profiles import profile_of_scores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# From the first column on: an indented example is left alone.
BLOCK = re.compile(
    r"^(<!-- table: ?([^>]*?)\s-->\n)(.*?)^(<!-- /table -->)", re.DOTALL | re.MULTILINE
)
#: Options and their values; none where any will do.
OPTIONS: dict[str, set[str]] = {
    "kind": {"scores", "seeds", "differences", "profile", "detections", "features"},
    "settings": set(),
    "seeds": set(),
    "columns": set(),
    "reference": set(),
    "test": {"test", "public"},
}
MEANS = {"validation": "validation (%)", **SCORES, "event_f1_micro": "micro (%)"}
TESTS = {
    "difference": "difference [95 %]",
    "p_t": "p, paired t",
    "p_holm": "p, Holm",
    "p_wilcoxon": "p, Wilcoxon",
}
COLUMNS = {"trials": "trials", **MEANS, "missed": "missed (%)", **TESTS}
#: Those that a table shows only where it asks for them.
ON_DEMAND = {"intersection_f1_macro", "p_wilcoxon"}


@functools.lru_cache(maxsize=None)
def read_trials(folder: Path, test: str = "test") -> dict[str, dict[int, dict[str, Any]]]:
    """Scores of the trials below a folder, by setting and seed; none for one that has no end.

    Each has the scores of the model that its configuration tests, the teacher where there is one,
    and where the record has them the counts: `events`, `missed`, and all of them as `profile`.
    Read once: a page has many tables of one folder.

    Raises:
        InputError: no trial is there, or a record cannot be read.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/trial_*/trial.json")):
        trials = found.setdefault(path.parent.parent.name, {})
        try:
            record = json.loads(path.read_text("utf-8"))
            training = record["settings"]["config"]["training"]
            seed = training["seed"] + record["settings"]["number"]
            model = "teacher" if training["teacher"] else "student"
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{path} is no record of a trial ({error!r}); remove it") from None
        logged = (record.get("public", {}) if test == "public" else record).get("scores", {})
        start = f"{test}/{model}/"
        scores = {key: logged[start + key] for key in MEANS if start + key in logged}
        epochs = read_epochs(path.parent)
        if scores and len(epochs):
            scores["epochs"] = epochs
        if scores and "val/obj_metric" in epochs:
            scores["validation"] = epochs["val/obj_metric"].max()
        profile = profile_of_scores(logged, model, test)
        if profile is not None:
            scores.update(profile[["events", "missed"]].iloc[0].to_dict(), profile=profile)
        trials[seed] = scores
    if not found:
        raise InputError(f"{folder} holds no <setting>/trial_<n>/trial.json; name a folder of runs")
    return found


def chosen(known: list[str], patterns: str | None, first: str) -> list[str]:
    """Settings in the order asked for; by default by name, the reference first."""
    if patterns is None:
        return sorted(known, key=lambda name: (name != first, name))
    kept = [s for one in patterns.split(",") for s in sorted(known) if fnmatchcase(s, one)]
    missing = [one for one in patterns.split(",") if not any(fnmatchcase(s, one) for s in known)]
    if missing:
        raise InputError(
            f"no trial of the setting {missing[0]!r}; there are those of {', '.join(sorted(known))}"
        )
    return list(dict.fromkeys(kept))


def table(request: str, results: Path = RESULTS) -> str:
    """Write the table that a page asks for, in Markdown.

    Args:
        request: folder and options, as between `<!-- table:` and `-->`.
        results: where the folder is.

    Raises:
        InputError: an option, a folder, a setting or a column is unknown.
    """
    first, *lines = request.splitlines()
    if lines:
        return sets(first, lines, results)
    options, settings, seeds, found = read_request(request, results)
    reference = options["reference"]
    if options.get("kind") == "seeds":
        rows = [
            [f"`{s}`", *(percent(one["event_f1_macro"]) if one else "-" for one in found[s])]
            for s in settings
        ]
        return markdown(["setting", *(f"seed {seed}" for seed in seeds)], rows)
    if options.get("kind") == "differences":
        return differences(
            {s: found[s] for s in settings if s != reference}, found.get(reference, [])
        )
    if options.get("kind") in ("profile", "detections"):
        of = "events" if options["kind"] == "profile" else "estimated"
        return profiles({s: found[s] for s in settings}, reference, of)
    if options.get("kind") == "features":
        return features(
            {s: [one["epochs"] for one in found[s] if one and "epochs" in one] for s in settings}
        )
    ordered = {s: found[s] for s in [*settings, reference] if s in found}
    tests = compare_with(reference, ordered) if reference in found else {}
    row_of = {
        s: cells([one for one in found[s] if one is not None], tests.get(s)) for s in settings
    }
    wanted = [key for key in options.get("columns", "").split(",") if key]
    for key in wanted:
        if key not in COLUMNS:
            raise InputError(f"{key!r} is no column of a table; use {', '.join(COLUMNS)}")
    wanted = wanted or [
        key
        for key in COLUMNS
        if key not in ON_DEMAND and any(row[key].strip("-") for row in row_of.values())
    ]
    header = ["setting", *(COLUMNS[key] for key in wanted)]
    return markdown(header, [[f"`{s}`", *(row_of[s][key] for key in wanted)] for s in settings])


def read_request(
    request: str, results: Path
) -> tuple[dict[str, str], list[str], list[int], dict[str, list[dict[str, Any] | None]]]:
    """Options of a request, settings and seeds that it asks for, and trials by setting.

    They are those of the reference too, each list with a place for each seed.
    """
    name, *rest = request.split()
    options = dict(one.partition("=")[::2] for one in rest)
    for option, value in options.items():
        if not value or value not in (OPTIONS.get(option, {""}) or {value}):
            values = [f"{one}={'|'.join(sorted(OPTIONS[one])) or '...'}" for one in OPTIONS]
            raise InputError(
                f"'table: {request}' asks for {option}={value}; use {', '.join(values)}"
            )
    options.setdefault("reference", "baseline")
    trials = read_trials(results / name, options.get("test", "test"))
    settings = chosen(list(trials), options.get("settings"), options["reference"])
    seeds = sorted({seed for setting in settings for seed in trials[setting]})
    if "seeds" in options:
        first, last = ends(options["seeds"])
        seeds = [seed for seed in seeds if first <= seed <= last]
    if "settings" not in options:
        settings = [s for s in settings if trials[s].keys() & set(seeds)]
    # A place for each seed, so that pairs are of the same one.
    both = {*settings, options["reference"]} & {*trials}
    return options, settings, seeds, {s: [trials[s].get(seed) for seed in seeds] for s in both}


def sets(shared: str, lines: list[str], results: Path) -> str:
    """Table over several folders: one setting and the reference in each."""
    title = COLUMNS["event_f1_macro"]
    rows = []
    for line in lines:
        name, _, request = line.partition(" | ")
        options, settings, _, found = read_request(f"{request} {shared}", results)
        reference = options["reference"]
        names = [reference, *(setting for setting in settings if setting != reference)]
        pairs = [pair for pair in zip(*(found.get(one, []) for one in names)) if all(pair)]
        if len(names) != 2 or not pairs:
            raise InputError(
                f"the row {name!r} has {len(pairs)} seeds that {' and '.join(names)} all have; "
                f"choose one setting beside {reference} by settings=, with a seed of both"
            )
        values = [[one["event_f1_macro"] for one in trials] for trials in zip(*pairs)]
        test = paired_test(*values)
        rows.append(
            [
                name,
                str(len(pairs)),
                *(mean_and_deviation(several, title) for several in values),
                difference(vars(test)),
                probability(test.p_t),
            ]
        )
    return markdown(
        [
            "training and test clips",
            "pairs",
            "without (%)",
            "with (%)",
            TESTS["difference"],
            TESTS["p_t"],
        ],
        rows,
    )


def differences(
    trials: dict[str, list[dict[str, Any] | None]], reference: list[dict[str, Any] | None]
) -> str:
    """Table of the differences of all scores, each over the seeds that have it in both."""
    rows = []
    for setting, several in trials.items():
        both = [(a, b) for a, b in zip(reference, several) if a and b]
        row = [f"`{setting}`", str(len(both))]
        for key in MEANS:
            pairs = [(a[key], b[key]) for a, b in both if key in a and key in b]
            row.append(difference(vars(paired_test(*zip(*pairs))), 1) if pairs else "-")
        rows.append(row)
    header = ["setting", "pairs", *(title.replace(" (%)", "") for title in MEANS.values())]
    return markdown(header, rows)


def profiles(trials: dict[str, list[dict[str, Any] | None]], reference: str, of: str) -> str:
    """Table of what became of the events; without a setting that has no counts."""
    outcomes = list(OF_REFERENCE if of == "events" else OF_ESTIMATES)
    known = {
        setting: {n: one["profile"] for n, one in enumerate(several) if one and "profile" in one}
        for setting, several in trials.items()
    }
    counts = of_systems(
        {s: pooled([*of_trial.values()]) for s, of_trial in known.items() if of_trial}
    )
    table = profile_table(counts, of)
    rows = []
    for name, *row in table.itertuples():
        rows.append([f"`{name}`" if name in known else name, *row])
        both = [n for n in known.get(reference, {}) if n in known.get(name, {})]
        if both and name != reference:
            first, second = (
                np.array([known[s][n].loc[ALL, outcomes] / known[s][n].loc[ALL, of] for n in both])
                for s in (reference, name)
            )
            tests = [paired_test(*shares) for shares in zip(first.T, second.T)]
            rows.append(["difference [95 %]", "", *(difference(vars(test), 1) for test in tests)])
    return markdown(["setting", *table.columns], rows)


def features(tables: dict[str, list[Any]]) -> str:
    """Table of the features in the last epoch; dashes for a setting without a table of epochs."""
    rows = feature_table(tables)
    header = ["setting", "mean \\|z\\|", *rows.columns[1:-1], "largest \\|z\\|"]
    return markdown(header, [[f"`{name}`", *row] for name, *row in rows.itertuples()])


def ends(seeds: str) -> tuple[int, int]:
    """First and last of `42-46`, or of `42`."""
    first, _, last = seeds.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise InputError(f"seeds are {seeds!r}; give the first and the last, as 42-46")
    return int(first), int(last or first)


def cells(trials: list[dict[str, Any]], test: dict[str, Any] | None) -> dict[str, str]:
    """What a setting's row says, by column."""
    finished = [one for one in trials if one]
    row = {"trials": str(len(finished))}
    if len(finished) < len(trials):
        row["trials"] += f" of {len(trials)}"
    for key in MEANS:
        row[key] = mean_and_deviation([one[key] for one in finished if key in one], COLUMNS[key])
    counted = [one for one in finished if "missed" in one]
    row["missed"] = "-"
    if counted:
        row["missed"] = percent(
            sum(one["missed"] for one in counted) / sum(one["events"] for one in counted)
        )
        if len(counted) < len(finished):
            row["missed"] += f" (of {len(counted)})"
    row.update(dict.fromkeys(TESTS, ""))
    if test:
        row["difference"] = difference(test)
        if test["pairs"] < len(finished):
            row["difference"] += f" ({test['pairs']} seeds)"
        for key in ("p_t", "p_holm", "p_wilcoxon"):
            row[key] = probability(test[key])
    return row


def difference(test: Mapping[str, Any], digits: int = 2) -> str:
    """Write a difference in points, with its interval where there is one."""
    written = points(test["difference"], digits)
    known = not math.isnan(test["low"])
    return f"{written} {interval(test['low'], test['high'], digits)}" if known else written


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a table, numbers at the right."""
    rule = "|:--|" + "--:|" * (len(header) - 1)
    first, *others = (f"| {' | '.join(row)} |" for row in (header, *rows))
    return "\n".join([first, rule, *others])


def rewritten(text: str, results: Path = RESULTS) -> str:
    """Text of a page with its tables made anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(match[2], results)}\n\n{match[4]}"

    return BLOCK.sub(block, text)


@command
def main() -> None:
    """Rewrite the pages, and name those that changed."""
    for page in PAGES:
        before = page.read_text("utf-8")
        after = rewritten(before)
        if after != before:
            write_whole(page, after)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
