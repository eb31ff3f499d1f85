"""The fast scores: by hand, and against sed_eval and psds_eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import needs_verify

from lab.errors import InputError
from lab.evaluation import metrics
from lab.evaluation import reference as reference_scores
from lab.evaluation.decode import decode
from lab.evaluation.scores import Scorer

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation"
COLUMNS = ["filename", "onset", "offset", "event_label"]
KINDS = ("event_based", "segment_based", "intersection_based")
FRAME = 0.1
FRAMES = 60


def table(*rows):
    return pd.DataFrame(list(rows), columns=COLUMNS)


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


def score(kind, reference, estimated):
    return getattr(Scorer(reference, DURATIONS, ["Frying"]), kind)(estimated)


def golden_tables():
    names = ("reference", "durations", "predictions", "operating_points")
    tables = [pd.read_csv(GOLDEN / f"{name}.tsv", sep="\t") for name in names]
    return *tables[:3], {at: rows[COLUMNS] for at, rows in tables[3].groupby("threshold")}


def hold_against_libraries(reference, durations, estimated, points):
    """Every score of a set against the libraries'."""
    classes = set(reference["event_label"].dropna()) | set(estimated["event_label"].dropna())
    ours = Scorer(reference, durations, sorted(classes)).evaluate(estimated, points)
    for scores, theirs in (
        (ours.event, reference_scores.event_based(reference, estimated)),
        (ours.segment, reference_scores.segment_based(reference, estimated)),
        (ours.intersection, reference_scores.intersection_based(reference, estimated, durations)),
    ):
        for name in ("macro_f1", "micro_f1", "strict_macro_f1"):
            assert getattr(scores, name) == pytest.approx(getattr(theirs, name), abs=1e-12)
        pd.testing.assert_frame_equal(scores.classwise, theirs.classwise, check_dtype=False)
    for scenario, value in ((1, ours.psds1), (2, ours.psds2)):
        expected = reference_scores.psds(points, reference, durations, scenario=scenario)
        assert value == pytest.approx(expected, abs=1e-12)


def random_set(seed, clips, classes, on_grid):
    """References and posteriors that follow them, with times on the frame grid or off it."""
    random = np.random.default_rng(seed)
    labels = [f"class{k}" for k in range(classes)]
    posteriors = random.random((clips, FRAMES, classes)) ** 3
    # Runs, not single frames.
    posteriors = np.repeat(posteriors[:, ::4], 4, axis=1)[:, :FRAMES]
    rows, names = [], [f"{clip:03d}.wav" for clip in range(clips)]
    for clip, name in enumerate(names):
        before = len(rows)
        for k, label in enumerate(labels):
            times = np.sort(random.choice(FRAMES, 2 * random.integers(0, 4), replace=False))
            for first, stop in times.reshape(-1, 2):
                shift = (0, 0) if on_grid else random.uniform(0, FRAME, 2)
                rows.append([name, first * FRAME + shift[0], stop * FRAME + shift[1], label])
                if random.random() < 0.7:
                    edge = random.integers(-2, 3, 2)
                    first, stop = max(first + edge[0], 0), max(stop + edge[1], 0)
                    posteriors[clip, first:stop, k] = random.choice([0.4, 0.5, 0.55, 0.95])
        if len(rows) == before:
            rows.append([name, None, None, None])
    durations = pd.DataFrame({"filename": names, "duration": random.choice([5.5, 6.0], clips)})
    return posteriors, names, table(*rows), durations, labels


@needs_verify
@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    clips=st.integers(1, 6),
    classes=st.integers(1, 4),
    on_grid=st.booleans(),
    window=st.sampled_from([1, 5]),
)
def test_equals_sed_eval_and_psds_eval(seed, clips, classes, on_grid, window):
    posteriors, names, reference, durations, labels = random_set(seed, clips, classes, on_grid)
    if reference["event_label"].isna().all():
        return
    times = {"median_window": window, "frame_seconds": FRAME, "clip_seconds": 6.0}
    points = decode(posteriors, names, labels, thresholds=[0.2, 0.5, 0.6], **times)
    shuffled = points[0.5].sample(frac=1, random_state=0)
    hold_against_libraries(reference, durations, shuffled, points)


@needs_verify
def test_real_predictions():
    hold_against_libraries(*golden_tables())


@needs_verify
def test_hand_made_tables():
    for estimated in (ESTIMATED, ESTIMATED[:0], pd.concat([ESTIMATED, REFERENCE[1:2]])):
        points = {0.4: ESTIMATED, 0.5: estimated}
        hold_against_libraries(REFERENCE, DURATIONS, estimated, points)


def test_f1_from_counts_by_hand():
    columns = {"n_ref": [4, 2, 0], "n_est": [4, 0, 3], "tp": [3, 0, 0], "fp": [1, 0, 3]}
    counts = pd.DataFrame(columns, index=["Cat", "Dog", "Speech"])
    scores = metrics.scores_from_counts(counts, undefined=[False, True, False])
    assert scores.macro_f1 == pytest.approx((0.75 + 0.0) / 2)
    assert scores.strict_macro_f1 == pytest.approx((0.75 + 0.0) / 2)
    assert scores.micro_f1 == pytest.approx(2 * 3 / (6 + 7))
    assert scores.classwise.loc["Dog", ["f1", "precision", "recall"]].isna().all()
    scores = metrics.scores_from_counts(0 * counts, undefined=[True] * 3)
    assert (scores.macro_f1, scores.micro_f1, scores.strict_macro_f1) == (0.0, 0.0, 0.0)


def test_optimal_matching_where_a_greedy_one_loses_an_event():
    # Both estimates fit the first reference event, only the first one fits the second.
    reference = table(["a.wav", 1.0, 2.0, "Dog"], ["a.wav", 1.3, 2.3, "Dog"])
    estimated = table(["a.wav", 1.15, 2.15, "Dog"], ["a.wav", 0.85, 1.85, "Dog"])
    assert Scorer(reference).event_based(estimated).micro_f1 == 1.0


def test_event_based_scores_by_hand():
    scores = score("event_based", REFERENCE, ESTIMATED)
    assert scores.classwise.loc["Dog", ["n_ref", "n_est", "tp", "fp"]].tolist() == [2, 3, 1, 2]
    assert scores.classwise["f1"].to_dict() == pytest.approx({"Dog": 0.4, "Cat": 0.0})
    assert (scores.macro_f1, scores.micro_f1) == pytest.approx((0.2, 1 / 3))
    counts = Scorer(REFERENCE).event_counts(ESTIMATED)  # clips a, b and c; Cat and Dog
    assert counts[:, 1].tolist() == [[1, 1, 1], [1, 1, 0], [0, 1, 0]]
    one = table(["a.wav", 1.0, 2.0, "Dog"])
    assert score("event_based", one, one.assign(onset=1.15)).macro_f1 == 1.0
    assert score("event_based", one, one.assign(onset=1.25)).macro_f1 == 0.0


def test_strict_macro_counts_the_class_that_is_never_found():
    # Segment-based: Dog has 12 reference and 8 estimated segments, 6 of them right.
    for kind in KINDS[1:]:
        scores = score(kind, REFERENCE, ESTIMATED)
        assert scores.macro_f1 == pytest.approx(scores.classwise["f1"]["Dog"])
        assert scores.strict_macro_f1 == pytest.approx(scores.macro_f1 / 2)
    assert score("segment_based", REFERENCE, ESTIMATED).macro_f1 == pytest.approx(12 / 20)


@pytest.mark.parametrize("kind", KINDS)
def test_false_positives_where_the_reference_has_nothing(kind):
    clean = score(kind, REFERENCE, ESTIMATED)
    assert clean.micro_f1 < score(kind, REFERENCE, ESTIMATED[:2]).micro_f1
    # Of a class that it lacks: micro alone, and not at intersections.
    noisy = score(kind, REFERENCE, pd.concat([ESTIMATED, table(["a.wav", 0.0, 1.0, "Frying"])]))
    assert (noisy.macro_f1, noisy.strict_macro_f1) == (clean.macro_f1, clean.strict_macro_f1)
    assert (noisy.micro_f1 < clean.micro_f1) == (kind != "intersection_based")


@pytest.mark.parametrize("empty", [pd.DataFrame(), table(["a.wav", None, None, None])])
def test_no_detection_scores_zero(empty):
    result = Scorer(REFERENCE, DURATIONS).evaluate(empty, {0.1: empty, 0.5: empty})
    assert set(result.summary().values()) == {0.0}
    assert set(result.event.classwise.index) == {"Dog", "Cat"}
    scorer = Scorer(REFERENCE, DURATIONS)
    assert scorer.psds({0.5: ESTIMATED, 0.9: empty}) == scorer.psds({0.5: ESTIMATED})


def test_psds_with_one_class():
    dogs = REFERENCE[REFERENCE["event_label"] != "Cat"]
    perfect = dogs.dropna()
    scorer = Scorer(dogs, DURATIONS)
    assert scorer.psds({0.5: perfect}) == pytest.approx((1.0, 1.0))
    # One false positive in half a minute is more than 100 an hour.
    assert scorer.psds({0.5: pd.concat([perfect, ESTIMATED[2:]])}) == (0.0, 0.0)


def test_without_durations():
    reference, durations, estimated, _ = golden_tables()
    without, scorer = Scorer(reference), Scorer(reference, durations)
    assert without.event_based(estimated).macro_f1 == scorer.event_based(estimated).macro_f1
    assert without.segment_based(estimated).macro_f1 == scorer.segment_based(estimated).macro_f1
    for call in (without.intersection_based, lambda events: without.psds({0.5: events})):
        with pytest.raises(InputError, match="there are no durations"):
            call(estimated)


def test_inputs_are_never_modified():
    inputs = [REFERENCE.copy(), DURATIONS.copy(), ESTIMATED.copy()]
    Scorer(*inputs[:2]).evaluate(inputs[2], {0.5: inputs[2]})
    for frame, original in zip(inputs, (REFERENCE, DURATIONS, ESTIMATED)):
        pd.testing.assert_frame_equal(frame, original)


OVERLAP = table(["a.wav", 1.0, 3.0, "Dog"], ["a.wav", 2.5, 4.0, "Dog"])
TOUCHING = table(["a.wav", 1.0, 2.0, "Dog"], ["a.wav", 2.0, 3.0, "Dog"])


def test_touching_events_do_not_overlap():
    result = score("intersection_based", REFERENCE, TOUCHING)
    assert result.classwise["tp"]["Dog"] == 1


@pytest.mark.parametrize(
    ("reference", "durations", "estimated", "words"),
    [
        (OVERLAP, DURATIONS, ESTIMATED, "the reference: Dog in a.wav overlaps itself at 2.5 s"),
        (REFERENCE, DURATIONS[:1], ESTIMATED, "b.wav of the reference has no duration"),
        (REFERENCE[3:], DURATIONS, ESTIMATED, "no event"),
        (REFERENCE, DURATIONS, OVERLAP, "the estimates: Dog in a.wav overlaps itself at 2.5 s"),
        (REFERENCE, DURATIONS, ESTIMATED.assign(filename="z.wav"), "z.wav is not in the ref"),
        (REFERENCE, DURATIONS, ESTIMATED.assign(event_label="Bell"), "'Bell', which is none of"),
    ],
)
def test_bad_tables_are_named(reference, durations, estimated, words):
    with pytest.raises(InputError, match=words):
        Scorer(reference, durations).intersection_based(estimated)
