"""The scores of the official libraries, as the official functions call them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pandas as pd
import pytest
from libraries import needs_verify

from lab.evaluation.reference import event_based, intersection_based, psds, segment_based

pytestmark = needs_verify

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation"
COLUMNS = ["filename", "onset", "offset", "event_label"]
DURATIONS = pd.DataFrame({"filename": ["a.wav", "b.wav", "c.wav"], "duration": 10.0})


def read(path):
    return pd.read_csv(path, sep="\t")


@pytest.mark.parametrize("name", ["none", "injected_psds_world_label", "zebra"])
def test_no_name_of_a_class_changes_a_score(name):
    rows = [["a.wav", 1.0, 3.0, "Dog"], ["a.wav", 5.0, 6.0, "Cat"], ["b.wav", 0.0, 9.0, "Dog"]]
    reference = pd.DataFrame([*rows, ["c.wav", None, None, None]], columns=COLUMNS)
    rows = [*rows[:2], ["b.wav", 0.0, 4.0, "Dog"], ["c.wav", 2.0, 3.0, "Dog"]]
    tables = [reference, pd.DataFrame(rows, columns=COLUMNS)]
    others = [table.replace("Cat", name) for table in tables]
    for metric in (event_based, segment_based, lambda *two: intersection_based(*two, DURATIONS)):
        expected, result = metric(*tables), metric(*others)
        assert (result.macro_f1, result.micro_f1) == (expected.macro_f1, expected.micro_f1)
        assert result.classwise.loc[name, "f1"] == 1
    values = [psds({0.5: e}, r, DURATIONS, scenario=1) for r, e in (tables, others)]
    assert values[0] == values[1]


@pytest.mark.parametrize("case", ["predictions", "predictions without Dog and Speech"])
def test_original_functions_on_real_predictions(case):
    expected = json.loads((GOLDEN / "scores.json").read_text())[case]
    reference = read(GOLDEN / "reference.tsv")
    estimated = read(GOLDEN / "predictions.tsv")
    if case != "predictions":
        estimated = estimated[~estimated["event_label"].isin(["Dog", "Speech"])]
    for name, metric in (("event", event_based), ("segment", segment_based)):
        scores = metric(reference, estimated)
        assert scores.macro_f1 == pytest.approx(expected[name]["macro_f1"], abs=1e-12)
        assert scores.micro_f1 == pytest.approx(expected[name]["micro_f1"], abs=1e-12)
        for label, f1 in expected[name]["classwise"].items():
            f1 = float("nan") if f1 is None else f1
            assert scores.classwise["f1"][label] == pytest.approx(f1, abs=1e-12, nan_ok=True)
    scores = intersection_based(reference, estimated, read(GOLDEN / "durations.tsv"))
    assert scores.macro_f1 == pytest.approx(expected["intersection"], abs=1e-12)


@pytest.mark.parametrize("scenario", [1, 2])
def test_original_psds_on_real_predictions(scenario):
    points = read(GOLDEN / "operating_points.tsv")
    points = {t: rows[COLUMNS] for t, rows in points.groupby("threshold")}
    tables = read(GOLDEN / "reference.tsv"), read(GOLDEN / "durations.tsv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = psds(points, *tables, scenario=scenario)
    expected = json.loads((GOLDEN / "scores.json").read_text())[f"psds{scenario}"]
    assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_published_scores_of_the_official_teacher(shared):
    golden = shared / "golden" / "desed2021_teacher"
    reference = read(shared / "golden" / "desed_metadata" / "validation.tsv")
    estimated = pd.read_csv(golden / "predictions0.5.csv", index_col=0)
    event = event_based(reference, estimated)
    assert f"{event.macro_f1:.2%} {event.micro_f1:.2%}" == "42.14% 42.35%"
    segment = segment_based(reference, estimated)
    assert f"{segment.macro_f1:.2%} {segment.micro_f1:.2%}" == "71.57% 77.03%"
    points = {
        float(path.stem.rsplit("_", 1)[1]): read(path)
        for path in sorted((golden / "operating_points").glob("*.tsv"))
    }
    assert len(points) == 50
    durations = read(shared / "golden" / "desed_metadata" / "validation_durations.tsv")
    assert f"{psds(points, reference, durations, scenario=1):.3f}" == "0.353"
