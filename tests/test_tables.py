"""Tables of the documentation: made from the records of runs, and what the pages hold."""

import json
import runpy
from pathlib import Path

import pytest

from lab.errors import InputError
from lab.evaluation.profile import COLUMNS
from lab.evaluation.significance import paired_test

ROOT = Path(__file__).resolve().parent.parent
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))
BASELINE = [0.40, 0.44, 0.45]
LAGS = [0.41, 0.47, 0.45]


def record(folder, number, f1, *, teacher=False, profile=True, **more):
    model = "teacher" if teacher else "student"
    scores = {f"test/{model}/event_f1_macro": f1, "test/other/event_f1_macro": 0.99}
    if profile:
        events = 10 * number + 10
        counts = {**dict.fromkeys(COLUMNS, 0), "events": events, "hit": events - 5, "missed": 5}
        scores.update({f"test/{model}/profile/{name}": count for name, count in counts.items()})
    settings = {"number": number, "config": {"training": {"seed": 42, "teacher": teacher}}}
    content = {"settings": settings, **({} if f1 is None else {"scores": scores}), **more}
    folder = folder / f"trial_{number}"
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    for number, (f1, other) in enumerate(zip(BASELINE, LAGS)):
        record(tmp_path / "set" / "baseline", number, f1, profile=number > 0)
        record(tmp_path / "set" / "lags_1", number, other, teacher="average")
    record(tmp_path / "set" / "exact", 0, None)
    record(tmp_path / "set" / "exact", 1, 0.1)
    return tmp_path


def rows(text):
    header, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    return {line[0].strip("`"): dict(zip(header, map(str.strip, line))) for line in lines}


@pytest.mark.parametrize(
    "page", TABLES["PAGES"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_pages_hold_what_the_records_give(page):
    text = page.read_text("utf-8")
    assert text.count("\n<!-- table:") == len(TABLES["BLOCK"].findall(text))
    assert TABLES["rewritten"](text) == text, "run python docs/tables.py"


def test_some_page_has_a_table():
    assert any(TABLES["BLOCK"].search(page.read_text("utf-8")) for page in TABLES["PAGES"])


def test_a_row_has_means_differences_and_tests_over_the_seeds_of_both(results):
    found = rows(TABLES["table"]("set", results))
    assert list(found) == ["baseline", "exact", "lags_1"]
    assert found["baseline"]["event F1, macro (%)"] == "43.00 ± 2.65"
    test = paired_test(BASELINE, LAGS)
    assert found["lags_1"]["difference [95 %]"].startswith("+1.33 [-2.46, +5.13]")
    assert found["lags_1"]["p, paired t"] == f"{test.p_t:.3f}"
    assert found["exact"]["difference [95 %]"] == "-34.00"
    assert found["exact"]["p, paired t"] == "-"
    assert "PSDS 1" not in found["baseline"]


def test_what_is_missing_is_said(results):
    found = rows(TABLES["table"]("set", results))
    assert found["exact"]["trials"] == "1 of 2"
    # 5 of 20 and 5 of 30 events; the first trial has no profile.
    assert found["baseline"]["missed (%)"] == "20.0 (of 2)"
    assert found["lags_1"]["missed (%)"] == "25.0"


def test_the_score_that_a_setting_is_chosen_by_comes_from_the_epochs(results):
    for number, best in enumerate((0.5, 0.7, 0.6)):
        table = f"epoch\tval/obj_metric\n0\t0.1\n1\t{best}\n2\t\n"
        (results / "set" / "lags_1" / f"trial_{number}" / "epochs.tsv").write_text(table)
    found = rows(TABLES["table"]("set", results))
    assert found["lags_1"]["validation (%)"] == "60.00 ± 10.00"
    assert found["baseline"]["validation (%)"] == "-"


def test_settings_seeds_and_columns_are_chosen(results):
    request = "set settings=lags_* seeds=43-44 columns=difference,trials"
    found = rows(TABLES["table"](request, results))
    lags = {"setting": "`lags_1`", "difference [95 %]": "+1.50 [-17.56, +20.56]", "trials": "2"}
    assert found == {"lags_1": lags}


def test_a_setting_without_a_trial_of_these_seeds_has_no_row(results):
    assert list(rows(TABLES["table"]("set seeds=42-43", results))) == [
        "baseline",
        "exact",
        "lags_1",
    ]
    assert list(rows(TABLES["table"]("set seeds=44-46", results))) == ["baseline", "lags_1"]
    named = rows(TABLES["table"]("set seeds=44-46 settings=exact", results))
    assert named["exact"]["trials"] == "0"


def test_seed_by_seed(results):
    found = rows(TABLES["table"]("set kind=seeds settings=lags_1,exact", results))
    assert found == {
        "lags_1": {"setting": "`lags_1`", "seed 42": "41.0", "seed 43": "47.0", "seed 44": "45.0"},
        "exact": {"setting": "`exact`", "seed 42": "-", "seed 43": "10.0", "seed 44": "-"},
    }


def test_what_the_monitor_said_in_the_last_epoch(results):
    table = "epoch\tz_norm\td_boundary\td_inside\tpulse_share\n0\t1\t5\t5\t1\n1\t3\t2\t0.5\t0.25\n"
    (results / "set" / "lags_1" / "trial_1" / "epochs.tsv").write_text(table)
    found = rows(TABLES["table"]("set kind=features settings=baseline,lags_1", results))
    del found["lags_1"]["setting"]
    assert list(found["lags_1"].values()) == ["3", "2", "0.5", "0.25", "3", "3"]
    assert set(found["baseline"].values()) == {"`baseline`", "-"}


def test_what_became_of_the_events_of_all_trials(results):
    text = TABLES["table"]("set kind=profile", results)
    found = rows(text)
    # The third setting has one trial with an end, the official teacher stands below.
    assert [name for name in found if "difference" not in name][:-1] == [
        "baseline",
        "exact",
        "lags_1",
    ]
    shares = {name: (row["events"], row["hit"], row["missed"]) for name, row in found.items()}
    assert shares["baseline"] == ("50", "80.0", "20.0")
    assert shares["exact"] == ("20", "75.0", "25.0")
    assert shares["lags_1"] == ("60", "75.0", "25.0")
    assert shares["official, on DESED"] == ("4,224", "38.0", "26.5")


def test_shares_of_events_are_compared_over_the_seeds_of_both(tmp_path):
    missed = {"baseline": (1, 3, 2), "lags_1": (2, 3, 5), "exact": (0,)}
    for setting, counts in missed.items():
        for number, count in enumerate(counts):
            record(tmp_path / "set" / setting, number, 0.5)
            path = tmp_path / "set" / setting / f"trial_{number}" / "trial.json"
            content = json.loads(path.read_text())
            profile = {"events": 10, "missed": count, "estimated": 4, "est_other_class": count // 2}
            content["scores"].update(
                {f"test/student/profile/{name}": value for name, value in profile.items()}
            )
            path.write_text(json.dumps(content))
    lines = TABLES["table"]("set kind=profile", tmp_path).splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert [line[0] for line in cells[2:]] == [
        "`baseline`",
        "`exact`",
        "difference [95 %]",
        "`lags_1`",
        "difference [95 %]",
        "official, on DESED",
    ]
    assert cells[4][-1] == "-10.0"
    test = paired_test([0.1, 0.3, 0.2], [0.2, 0.3, 0.5])
    assert cells[6][-1] == f"+13.3 [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    detections = TABLES["table"]("set kind=detections settings=baseline,lags_1", tmp_path)
    assert "| `baseline` | 12 | " in detections
    test = paired_test([0, 0.25, 0.25], [0.25, 0.25, 0.5])
    assert f"+16.7 [{100 * test.low:+.1f}, {100 * test.high:+.1f}]" in detections.splitlines()[4]


def test_scores_on_the_public_set(tmp_path):
    public = {"scores": {"public/student/event_f1_macro": 0.25}}
    record(tmp_path / "set" / "baseline", 0, 0.5, public=public)
    assert rows(TABLES["table"]("set test=public", tmp_path))["baseline"] == {
        "setting": "`baseline`",
        "trials": "1",
        "event F1, macro (%)": "25.00",
    }


def test_differences_of_every_score(results):
    found = rows(TABLES["table"]("set kind=differences", results))
    test = paired_test(BASELINE, LAGS)
    assert list(found) == ["exact", "lags_1"]
    assert (found["lags_1"]["pairs"], found["exact"]["pairs"]) == ("3", "1")
    macro = f"+1.3 [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    assert found["lags_1"]["event F1, macro"] == macro
    assert found["exact"]["event F1, macro"] == "-34.0"
    assert found["lags_1"]["PSDS 1"] == "-"


def test_a_row_each_for_one_setting_in_several_folders(results):
    record(results / "other" / "baseline", 0, 0.5)
    record(results / "other" / "lags_1", 0, 0.4)
    record(results / "other" / "lags_1", 1, 0.4)
    text = "settings=lags_*\nThe first | set\nThe second | other seeds=42-43"
    found = rows(TABLES["table"](text, results))
    test = paired_test(BASELINE, LAGS)
    assert found["The first"] == {
        "training and test clips": "The first",
        "pairs": "3",
        "without (%)": "43.00 ± 2.65",
        "with (%)": "44.33 ± 3.06",
        "difference [95 %]": "+1.33 [-2.46, +5.13]",
        "p, paired t": f"{test.p_t:.3f}",
    }
    second = found["The second"]
    assert (second["pairs"], second["difference [95 %]"]) == ("1", "-10.00")
    for request in (f" {text}", "\nThe first | set settings=lags_*"):
        page = f"<!-- table:{request}\n-->\n<!-- /table -->\n"
        assert "| The first | 3 |" in TABLES["rewritten"](page, results)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("nothing", "nothing holds no <setting>"),
        (
            "set kind=rows",
            "asks for kind=rows; use kind=detections|differences|features|profile|scores|seeds",
        ),
        ("set colour=red", "asks for colour=red"),
        ("set seeds=a-b", "seeds are 'a-b'"),
        ("set columns=f1", "'f1' is no column"),
        ("set settings=baseline,margin", "no trial of the setting 'margin'"),
        ("settings=*\nAll | set", "row 'All' has 1 seeds that baseline and exact and lags_1"),
        ("settings=lags_1\nFew | set seeds=50-51", "row 'Few' has 0 seeds that baseline and"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(results, request_, said):
    with pytest.raises(InputError, match=said.replace("|", r"\|")):
        TABLES["table"](request_, results)


def test_a_record_that_cannot_be_read_is_named(results):
    path = results / "set" / "baseline" / "trial_0" / "trial.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"trial_0/trial.json is no record"):
        TABLES["table"]("set", results)


def test_only_what_lies_between_the_comments_is_rewritten(results):
    page = "    <!-- table: nothing -->\n\n<!-- table: set columns=trials -->\n"
    page += "old\n<!-- /table -->\n\nB\n"
    made = TABLES["rewritten"](page, results)
    assert made.startswith(page.split("old")[0] + "\n| setting | trials |\n")
    assert made.endswith("| `lags_1` | 3 |\n\n<!-- /table -->\n\nB\n")
    assert TABLES["rewritten"](made, results) == made
