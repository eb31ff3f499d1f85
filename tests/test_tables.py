"""Tables of the documentation: made from the table of results, and what the pages hold."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lab.errors import InputError
from lab.evaluation.profile import OF_REFERENCE
from lab.evaluation.significance import holm, paired_test
from lab.runs.results import COLUMNS, KEY, read_results

ROOT = Path(__file__).resolve().parent.parent
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))
MACRO = "event_f1_macro"
BASELINE = [0.40, 0.44, 0.45]
STEPS = [0.41, 0.47, 0.45]


def rows_of(name, setting, scores, first=42, test="test", **more):
    return [
        {**dict(zip(KEY, (name, test, setting, first + n))), MACRO: score, **more}
        for n, score in enumerate(scores)
    ]


@pytest.fixture
def results():
    """Three settings of one set, of which one has a seed of its own; and a public set."""
    rows = rows_of("set", "baseline", BASELINE, events=10, hit=6, missed=4, estimated=8)
    rows += rows_of("set", "steps", STEPS, events=10, hit=7, missed=3, estimated=11)
    rows += rows_of("set", "exact", [0.1, 0.2], first=44)
    rows += rows_of("set", "baseline", [0.25], test="public")
    rows += rows_of("set", "steps", [0.2], test="public")
    table = pd.DataFrame(rows, columns=COLUMNS).fillna({name: 0 for name in OF_REFERENCE})
    return table.set_index(KEY).sort_index()


def cells(text):
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
    ]
    return {line[0]: dict(zip(header[1:], line[1:])) for line in lines}


@pytest.mark.parametrize(
    "page", TABLES["PAGES"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_pages_hold_what_the_results_give(page):
    text = page.read_text("utf-8")
    assert text.count("\n<!-- table:") == len(TABLES["BLOCK"].findall(text))
    results = read_results(TABLES["RESULTS"])
    assert TABLES["rewritten"](text, results) == text, "run python docs/tables.py"


def test_the_results_page_has_its_tables():
    page = ROOT / "docs" / "results.md"
    assert len(TABLES["BLOCK"].findall(page.read_text("utf-8"))) >= 4


def test_a_row_has_both_means_and_the_test_over_the_seeds_of_both(results):
    row = cells(TABLES["table"]("effect\nThe set | set settings=steps", results))["The set"]
    test = paired_test(BASELINE, STEPS)
    assert row == {
        "pairs": "3",
        "without (%)": "43.00 ± 2.65",
        "with (%)": "44.33 ± 3.06",
        "difference [95 %]": "+1.33 [-2.46, +5.13]",
        "p": f"{test.p_t:.3f}",
        "p, Holm": f"{test.p_t:.3f}",
    }


def test_holm_counts_the_rows_of_the_table(results):
    text = "effect\n" + "".join(f"{n} | set settings=steps seeds=42-4{n}\n" for n in "342")
    table = cells(TABLES["table"](text, results))
    chances = [paired_test(BASELINE[:n], STEPS[:n]).p_t for n in (2, 3)]
    # The third has one pair: a test that is planned, with its trials to come.
    expected = [f"{p:.3f}" for p in holm([*chances, 1.0])[:2]] + ["-"]
    assert [table[name]["p, Holm"] for name in "342"] == expected
    assert [table[name]["pairs"] for name in "342"] == ["2", "3", "1"]


def test_settings_name_the_rows_where_there_are_several(results):
    table = cells(TABLES["table"]("effect\nset settings=steps,exact", results))
    assert list(table) == ["`steps`", "`exact`"]
    assert table["`exact`"]["pairs"] == "1"
    assert table["`exact`"]["difference [95 %]"] == "-35.00"
    assert table["`exact`"]["p"] == "-"
    titled = TABLES["table"]("effect\nAll | set settings=steps,exact", results)
    assert list(cells(titled)) == ["All: `steps`", "All: `exact`"]


def test_another_reference_and_the_public_set(results):
    text = "effect\nA | set settings=steps reference=exact\nB | set settings=steps test=public"
    table = cells(TABLES["table"](text, results))
    assert table["A"]["difference [95 %]"] == "+35.00"
    assert table["B"]["without (%)"] == "25.00"


def test_differences_of_every_score(results):
    row = cells(TABLES["table"]("scores\nA | set settings=steps", results))["A"]
    test = paired_test(BASELINE, STEPS)
    assert row["event F1, macro"] == f"+1.3 [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    assert row["PSDS 1"] == "-"


def test_events_and_detections_for_100_events_and_their_differences(results):
    row = cells(TABLES["table"]("profile\nA | set settings=steps", results))["A"]
    numbers = {name: row[name].split(" ")[:2] for name in ("hit", "missed", "estimated")}
    assert numbers["hit"] == ["60.0", "+10.0"]
    assert numbers["missed"] == ["40.0", "-10.0"]
    assert numbers["estimated"] == ["80.0", "+30.0"]


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ("rows\nA | set settings=steps", "rows"),
        ("effect\nA | set settings=steps colour=red", "colour=red"),
        ("effect\nA | set settings=steps seeds=a-b", "a-b"),
        ("effect\nA | set settings=margin", "margin"),
        ("effect\nA | nothing settings=steps", "nothing"),
        ("effect\nA | set", "settings"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(results, request_, named):
    with pytest.raises(InputError, match=named):
        TABLES["table"](request_, results)


def test_only_what_lies_between_the_comments_is_rewritten(results):
    page = "    <!-- table: nothing -->\n\n<!-- table: effect\nA | set settings=steps\n-->\n"
    made = TABLES["rewritten"](page + "old\n<!-- /table -->\n\nB\n", results)
    assert made.startswith(page)
    assert "old" not in made
    assert made.endswith("\n\n<!-- /table -->\n\nB\n")
    assert TABLES["rewritten"](made, results) == made


def test_the_table_of_results_is_whole():
    results = read_results(TABLES["RESULTS"])
    shares = results[list(OF_REFERENCE)].sum(axis=1)
    known = results["events"].notna()
    np.testing.assert_array_equal(shares[known], results.loc[known, "events"])
    assert results[MACRO].between(0, 1).all()
