"""Write the tables of results in README.md and docs/*.md from docs/results/results.csv.

    python docs/tables.py

A page asks for a table by a pair of comments, and what lies between them is rewritten:

    <!-- table: effect
    main job | main_job_confirmation settings=lags_1248_0.3 seeds=62-81
    its public set | recordings_strong settings=lags_1248_0.3 test=public
    -->
    <!-- /table -->

The first line is the kind of the table, each other line a title and a set of results.csv, with
settings that are held against a reference over the seeds that both have. The kinds:

    effect    difference of the macro event F1 in points, p of the paired t-test, and the same with
              Holm's correction for all rows of the table; the score of both (%)
    scores    differences of every score, in points (PSDS times 100)
    overview  differences of three: macro event F1 at threshold 0.5 and at the one that validation
              clips choose, and PSDS 1
    decoding  differences of the macro event F1 by each decoder: the training's, one threshold that
              validation clips choose, and those of docs/results/decoding.csv
    profile   what became of 100 reference events, and the detections for them by what is wrong with
              them: without, and the difference

Options follow the set, or the kind where they are those of all lines:

    settings=weights,both   the settings, a row each (needed)
    reference=baseline      what they are held against (the default)
    seeds=52-61             which seeds (default: all of both)
    test=public             scores on the public set (default: on the test set)

With several settings, or without a title, a row is named after its setting.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Mapping, NamedTuple

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.errors import InputError, command
from lab.evaluation.profile import readable
from lab.evaluation.significance import compare, holm
from lab.evaluation.tables import (
    SCORES,
    difference,
    markdown,
    mean_and_deviation,
    percent,
    probability,
)
from lab.files import write_whole
from lab.runs.results import read_results

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "results.csv"
DECODING = RESULTS.with_name("decoding.csv")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# From the first column on: an indented example is left alone.
BLOCK = re.compile(
    r"^(<!-- table: ([^>]*?)\s-->\n)(.*?)^(<!-- /table -->)", re.DOTALL | re.MULTILINE
)
OVERVIEW = {
    "event_f1_macro": "macro event F1",
    "shared_threshold_f1_macro": "at the threshold of validation clips",
    "psds_score_scenario1": "PSDS 1",
}
DECODERS = {
    "event_f1_macro": "threshold 0.5",
    "shared_threshold_f1_macro": "threshold of validation clips",
    "median": "window and threshold by class",
    "sebbs": "cSEBBs",
}
PROFILE = ("hit", "missed", "estimated", "est_boundary_wrong", "est_other_class")
OPTIONS = {"settings", "reference", "seeds", "test"}


class Pairs(NamedTuple):
    """One row of a table: the trials of a setting and of its reference, seed by seed."""

    name: str
    setting: pd.DataFrame
    reference: pd.DataFrame

    def test(self, key: str, of: str | None = None) -> pd.Series:
        """Compare one score, or the share that a count has of another."""
        with_and_without = {
            name: table[key] / table[of] if of else table[key]
            for name, table in (("without", self.reference), ("with", self.setting))
        }
        known = {name: values.dropna().to_dict() for name, values in with_and_without.items()}
        table = compare("without", known)
        empty = dict.fromkeys(table.columns, float("nan"))
        return table.loc["with"] if len(table) else pd.Series(empty)


def table(request: str, results: pd.DataFrame) -> str:
    """Write the table that a page asks for, in Markdown.

    Args:
        request: what stands between `<!-- table:` and `-->`.
        results: as :func:`lab.runs.results.read_results` returns it.

    Raises:
        InputError: the kind, an option, a set, a setting or a seed is not there.
    """
    first, *lines = request.splitlines()
    kind, *shared = first.split()
    if kind not in KINDS:
        raise InputError(f"'table: {first}' asks for {kind}; use {', '.join(KINDS)}")
    if kind == "decoding":
        decoders = pd.read_csv(DECODING).pivot(
            index=list(results.index.names), columns="decoder", values="event_f1_macro"
        )
        results = results.join(decoders)
    return KINDS[kind]([pairs for line in lines for pairs in pairs_of(line, shared, results)])


def pairs_of(line: str, shared: list[str], results: pd.DataFrame) -> list[Pairs]:
    """Rows of a line: a title, a set and its options."""
    title, _, request = line.rpartition(" | ")
    name, *own = request.split()
    options = dict(one.partition("=")[::2] for one in [*shared, *own])
    for option, value in options.items():
        if option not in OPTIONS or not value:
            raise InputError(f"{line!r} asks for {option}={value}; use {', '.join(OPTIONS)}=...")
    reference = options.get("reference", "baseline")
    settings = [one for one in options.get("settings", "").split(",") if one]
    first, last = ends(options.get("seeds", "0-999999"))
    rows = []
    for setting in settings:
        trials = [
            results[
                (results.index.get_level_values("set") == name)
                & (results.index.get_level_values("test") == options.get("test", "test"))
                & (results.index.get_level_values("setting") == one)
            ].droplevel(["set", "test", "setting"])
            for one in (setting, reference)
        ]
        both = [s for s in trials[0].index if s in trials[1].index and first <= s <= last]
        if not both:
            raise InputError(f"{line!r}: {setting} and {reference} share no seed in {name}")
        label = title if title and len(settings) == 1 else f"{title}: `{setting}`".lstrip(": ")
        rows.append(Pairs(label, trials[0].loc[both], trials[1].loc[both]))
    if not rows:
        raise InputError(f"{line!r} names no setting; give settings=...")
    return rows


def ends(seeds: str) -> tuple[int, int]:
    """First and last of `42-46`, or of `42`."""
    first, _, last = seeds.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise InputError(f"seeds are {seeds!r}; give the first and the last, as 42-46")
    return int(first), int(last or first)


def effect(rows: list[Pairs]) -> str:
    """Table of the macro event F1 of both, its difference and its p."""
    key = "event_f1_macro"
    tests = [pairs.test(key) for pairs in rows]
    chances = pd.Series([test["p_t"] for test in tests])
    # A planned test that lacks its trials counts, too.
    corrected = pd.Series(holm(chances.fillna(1.0))).where(chances.notna())
    return markdown(
        ["", "difference [95 %]", "p", "p, Holm", "pairs", "without (%)", "with (%)"],
        [
            [
                pairs.name,
                difference(test),
                probability(test["p_t"]),
                probability(p_holm),
                str(len(pairs.setting)),
                *(mean_and_deviation(t[key], "%") for t in (pairs.reference, pairs.setting)),
            ]
            for pairs, test, p_holm in zip(rows, tests, corrected)
        ],
    )


def differences(rows: list[Pairs], titles: Mapping[str, str]) -> str:
    """Table of the differences of some scores."""
    return markdown(
        ["", "pairs", *(title.replace(" (%)", "") for title in titles.values())],
        [
            [p.name, str(len(p.setting)), *(difference(p.test(key), 1) for key in titles)]
            for p in rows
        ],
    )


def profile(rows: list[Pairs]) -> str:
    """Table of events and of detections, for 100 reference events: without, and differences."""

    def cell(pairs: Pairs, key: str) -> str:
        known = pairs.reference.dropna(subset=["events"])
        without = percent(known[key].sum() / known["events"].sum())
        return f"{without} {difference(pairs.test(key, 'events'), 1)}"

    return markdown(
        ["", "pairs", *map(readable, PROFILE)],
        [[p.name, str(len(p.setting)), *(cell(p, key) for key in PROFILE)] for p in rows],
    )


KINDS: dict[str, Callable[[list[Pairs]], str]] = {
    "effect": effect,
    "scores": partial(differences, titles=SCORES),
    "overview": partial(differences, titles=OVERVIEW),
    "decoding": partial(differences, titles=DECODERS),
    "profile": profile,
}


def rewritten(text: str, results: pd.DataFrame) -> str:
    """Text of a page with its tables made anew."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table(match[2], results)}\n\n{match[4]}"

    return BLOCK.sub(block, text)


@command
def main() -> None:
    """Rewrite the pages, and name those that changed."""
    results = read_results(RESULTS)
    for page in PAGES:
        before = page.read_text("utf-8")
        after = rewritten(before, results)
        if after != before:
            write_whole(page, after)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
