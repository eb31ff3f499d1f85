from __future__ import annotations

import json
import warnings
from pathlib import Path

import pandas as pd
import pytest
from libraries import needs_verify

from lab.errors import InputError
from lab.evaluation.reference import (
    event_based,
    intersection_based,
    psds,
    segment_based,
)

pytestmark = needs_verify

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation"
COLUMNS = ["filename", "onset", "offset", "event_label"]


def table(*rows):
    return pd.DataFrame(list(rows), columns=COLUMNS)


def read(path):
    return pd.read_csv(path, sep="\t")


REFERENCE = table(
    ["a.wav", 1.0, 3.0, "Dog"],
    ["a.wav", 5.0, 6.0, "Cat"],
    ["b.wav", 0.0, 10.0, "Dog"],
    ["c.wav", None, None, None],
)
ESTIMATED = table(
    ["a.wav", 1.1, 3.1, "Dog"], ["b.wav", 0.0, 4.0, "Dog"], ["c.wav", 2.0, 3.0, "Dog"]
)
DURATIONS = pd.DataFrame({"filename": ["a.wav", "b.wav", "c.wav"], "duration": 10.0})
SCORES = {
    "event": lambda reference, estimated, durations: event_based(reference, estimated),
    "segment": lambda reference, estimated, durations: segment_based(reference, estimated),
    "intersection": intersection_based,
    "psds": lambda reference, estimated, durations: psds(
        {0.5: estimated}, reference, durations, scenario=1
    ),
}


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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = psds(
            points,
            read(GOLDEN / "reference.tsv"),
            read(GOLDEN / "durations.tsv"),
            scenario=scenario,
        )
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


def test_counts_of_a_hand_made_case():
    scores = event_based(REFERENCE, ESTIMATED)
    assert scores.classwise.loc["Dog", ["n_ref", "n_est", "tp", "fp"]].tolist() == [2, 3, 1, 2]
    assert scores.classwise["f1"].to_dict() == pytest.approx({"Dog": 0.4, "Cat": 0.0})
    assert scores.macro_f1 == pytest.approx(0.2)
    assert scores.strict_macro_f1 == pytest.approx(0.2)
    assert scores.micro_f1 == pytest.approx(1 / 3)


def test_strict_macro_counts_the_class_that_is_never_found():
    # Segment-based: Dog has 12 reference and 8 estimated segments, 6 of them right.
    for name in ("segment", "intersection"):
        scores = SCORES[name](REFERENCE, ESTIMATED, DURATIONS)
        assert pd.isna(scores.classwise["f1"]["Cat"])
        assert scores.macro_f1 == pytest.approx(scores.classwise["f1"]["Dog"])
        assert scores.strict_macro_f1 == pytest.approx(scores.macro_f1 / 2)
    assert segment_based(REFERENCE, ESTIMATED).macro_f1 == pytest.approx(12 / 20)


def test_a_class_the_reference_lacks_lowers_micro_only():
    with_noise = pd.concat([ESTIMATED, table(["a.wav", 0.0, 1.0, "Frying"])])
    for name in ("event", "segment"):
        clean = SCORES[name](REFERENCE, ESTIMATED, DURATIONS)
        noisy = SCORES[name](REFERENCE, with_noise, DURATIONS)
        assert noisy.macro_f1 == clean.macro_f1
        assert noisy.strict_macro_f1 == clean.strict_macro_f1
        assert noisy.micro_f1 < clean.micro_f1


def test_clips_without_events_count_false_positives():
    quiet = ESTIMATED[ESTIMATED["filename"] != "c.wav"]
    for name in ("event", "segment", "intersection"):
        with_false = SCORES[name](REFERENCE, ESTIMATED, DURATIONS).micro_f1
        assert with_false < SCORES[name](REFERENCE, quiet, DURATIONS).micro_f1


@pytest.mark.parametrize("empty", [pd.DataFrame(), table(), table(["a.wav", None, None, None])])
def test_no_detection_scores_zero(empty):
    for name in ("event", "segment", "intersection"):
        scores = SCORES[name](REFERENCE, empty, DURATIONS)
        assert (scores.macro_f1, scores.micro_f1, scores.strict_macro_f1) == (0.0, 0.0, 0.0)
        assert scores.classwise["tp"].sum() == 0
        assert set(scores.classwise.index) == {"Dog", "Cat"}
    for scenario in (1, 2):
        assert psds({0.1: empty, 0.5: empty}, REFERENCE, DURATIONS, scenario=scenario) == 0.0


def test_an_operating_point_without_detection_changes_nothing():
    alone = psds({0.5: ESTIMATED}, REFERENCE, DURATIONS, scenario=1)
    beside = psds({0.5: ESTIMATED, 0.9: pd.DataFrame()}, REFERENCE, DURATIONS, scenario=1)
    assert alone == beside


@pytest.mark.parametrize("scenario", [1, 2])
def test_psds_with_one_class(scenario):
    dogs = REFERENCE[REFERENCE["event_label"] != "Cat"]
    perfect = dogs.dropna()
    assert psds({0.5: perfect}, dogs, DURATIONS, scenario=scenario) == pytest.approx(1.0)
    # One false positive in half a minute is more than 100 an hour.
    wrong = table(["c.wav", 2.0, 3.0, "Dog"])
    both = pd.concat([perfect, wrong])
    assert psds({0.5: both}, dogs, DURATIONS, scenario=scenario) == 0.0


def test_a_reference_without_events():
    silent = table(["a.wav", None, None, None])
    one = table(["a.wav", 1.0, 2.0, "Dog"])
    for metric in (event_based, segment_based):
        assert metric(silent, one).macro_f1 == 0.0
        assert metric(silent, table()).micro_f1 == 0.0
    with pytest.raises(InputError, match="no event"):
        intersection_based(silent, one, DURATIONS)


def test_inputs_are_never_modified():
    tables = [frame.copy() for frame in (REFERENCE, ESTIMATED, DURATIONS)]
    for score in SCORES.values():
        score(*tables)
    for frame, original in zip(tables, (REFERENCE, ESTIMATED, DURATIONS)):
        pd.testing.assert_frame_equal(frame, original)


@pytest.mark.parametrize("name", list(SCORES))
@pytest.mark.parametrize(
    ("estimated", "words"),
    [
        (ESTIMATED.drop(columns="onset"), "lacks the column 'onset'"),
        (ESTIMATED.assign(onset=9.9), "Dog in a.wav has its onset 9.9 s after its offset 3.1 s"),
        (ESTIMATED.assign(onset=-1.0), "-1.0; give seconds >= 0"),
        (ESTIMATED.assign(offset="soon"), "offset soon"),
        (ESTIMATED.assign(filename=None), "without filename"),
        (ESTIMATED.assign(filename="z.wav"), "z.wav"),
    ],
)
def test_bad_estimates_are_named(name, estimated, words):
    with pytest.raises(InputError, match=words):
        SCORES[name](REFERENCE, estimated, DURATIONS)


OVERLAP = table(["a.wav", 1.0, 3.0, "Dog"], ["a.wav", 2.5, 4.0, "Dog"])
TWICE = table(["a.wav", 1.0, 3.0, "Dog"], ["a.wav", 1.0, 3.0, "Dog"])


@pytest.mark.parametrize("name", ["intersection", "psds"])
@pytest.mark.parametrize(
    ("reference", "estimated", "durations", "words"),
    [
        (OVERLAP, ESTIMATED, DURATIONS, "the reference: Dog in a.wav overlaps itself at 2.5 s"),
        (REFERENCE, OVERLAP, DURATIONS, "the estimates.*: Dog in a.wav overlaps itself at 2.5 s"),
        (REFERENCE, TWICE, DURATIONS, "overlaps itself at 1.0 s"),
        (REFERENCE, ESTIMATED, DURATIONS[:1], "has no duration"),
        (REFERENCE, ESTIMATED, DURATIONS.drop(columns="duration"), "lack the column 'duration'"),
        (REFERENCE, ESTIMATED, DURATIONS.assign(duration=0), "duration of a.wav is 0"),
        (
            REFERENCE,
            ESTIMATED,
            pd.concat([DURATIONS, DURATIONS.assign(duration=5)]),
            "a.wav has two durations",
        ),
    ],
)
def test_bad_tables_for_intersections_are_named(name, reference, estimated, durations, words):
    with pytest.raises(InputError, match=words):
        SCORES[name](reference, estimated, durations)


def test_touching_events_do_not_overlap():
    touching = table(["a.wav", 1.0, 2.0, "Dog"], ["a.wav", 2.0, 3.0, "Dog"])
    assert intersection_based(REFERENCE, touching, DURATIONS).classwise["tp"]["Dog"] == 1


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="scenario is 3"):
        psds({0.5: ESTIMATED}, REFERENCE, DURATIONS, scenario=3)
    with pytest.raises(InputError, match="operating_points is empty"):
        psds({}, REFERENCE, DURATIONS, scenario=1)
    with pytest.raises(InputError, match="resolution is 0"):
        segment_based(REFERENCE, ESTIMATED, resolution=0)
    with pytest.raises(InputError, match="collar is 0"):
        event_based(REFERENCE, ESTIMATED, collar=0)


def test_an_event_counts_within_the_collar():
    reference = table(["a.wav", 1.0, 2.0, "Dog"])
    assert event_based(reference, reference.assign(onset=1.15)).macro_f1 == 1.0
    assert event_based(reference, reference.assign(onset=1.25)).macro_f1 == 0.0
