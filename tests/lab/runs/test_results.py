"""The table of results: what is in it is kept, what comes is added once."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.errors import InputError
from lab.runs.results import COLUMNS, add_rows, join_set, read_results, rows_of

RECORD = {
    **{"commit": "1234567", "processor": "AVX2", "torch": "2.9", "validation": 1.25},
    "scores": {
        "test/student/event_f1_macro": 0.1,
        "test/teacher/event_f1_macro": 0.1 + 0.2,
        "test/teacher/profile/events": 7.0,
        "hp_metric": 0.9,
    },
    "public_scores": {"test/student/event_f1_macro": 0.5},
}


def test_a_trial_has_a_row_for_each_test_set_of_the_model_that_counts(tmp_path):
    add_rows(tmp_path / "results.csv", rows_of("set", "steps", 52, RECORD))
    table = read_results(tmp_path / "results.csv")
    row = table.loc[("set", "test", "steps", 52)]
    assert row["event_f1_macro"] == 0.1 + 0.2  # to the bit
    assert (row["events"], row["commit"], row["validation"]) == (7, "1234567", 1.25)
    assert table.loc[("set", "public", "steps", 52), "event_f1_macro"] == 0.5
    assert row.isna().sum() == len(COLUMNS) - 4 - 6
    before = (tmp_path / "results.csv").read_text()
    assert ",0.30000000000000004," in before
    # What is in the table is kept as it is; a trial that diverged has no scores.
    other = {**RECORD, "torch": "another"}
    rows = [*rows_of("set", "steps", 52, other), *rows_of("set", "exact", 1, {"scores": {}})]
    add_rows(tmp_path / "results.csv", rows)
    after = (tmp_path / "results.csv").read_text()
    assert after.startswith(before)
    assert "another" not in after
    assert read_results(tmp_path / "results.csv").loc[("set", "test", "exact", 1)].isna().all()


def test_many_may_add_at_once(tmp_path):
    path = tmp_path / "results.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_rows(path, rows_of("set", "a", n, RECORD)), range(30)))
    assert len(read_results(path)) == 60


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n" + "s,t,a,1\n" * 2])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=r"r\.csv"):
        read_results(tmp_path / "r.csv")
    with pytest.raises(InputError, match=r"r\.csv"):
        add_rows(tmp_path / "r.csv", [])
    assert (tmp_path / "r.csv").read_text() == text


ENTRY = {
    "configuration": {"training": {"seed": 42}},
    "data": {"training": "ab"},
    "settings": {"baseline": {"coherence": {"lags": (1, 2)}}},
}


def test_a_set_gets_further_settings_and_keeps_its_own(tmp_path):
    path = tmp_path / "results.csv"
    join_set(path, "other", ENTRY)
    join_set(path, "set", ENTRY)
    join_set(path, "set", {**ENTRY, "data": {"public": "cd"}, "settings": {"steps": {}}})
    sets = json.loads((tmp_path / "configs.json").read_text())
    assert sets["other"] == json.loads(json.dumps(ENTRY))
    assert list(sets["set"]["settings"]) == ["baseline", "steps"]
    assert sets["set"]["data"] == {"training": "ab", "public": "cd"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"configuration": {"training": {"seed": 1}}}, "training.seed was 42, is 1"),
        ({"data": {"training": "cd"}}, "data.training was 'ab', is 'cd'"),
        ({"settings": {"baseline": {"coherence": {"lags": [1]}}}}, "settings.baseline"),
    ],
)
def test_other_trainings_under_the_same_name_are_refused(tmp_path, change, named):
    join_set(tmp_path / "results.csv", "set", ENTRY)
    with pytest.raises(InputError, match=named.replace(".", r"\.").replace("[", r"\[")):
        join_set(tmp_path / "results.csv", "set", {**ENTRY, **change})
