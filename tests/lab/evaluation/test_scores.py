"""The fast scores against sed_eval and psds_eval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import needs_verify

from lab.errors import InputError
from lab.evaluation import reference as reference_scores
from lab.evaluation.decode import decode
from lab.evaluation.scores import Scorer, evaluate

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation"
COLUMNS = ["filename", "onset", "offset", "event_label"]
FRAME = 0.1
FRAMES = 60
THRESHOLDS = [0.2, 0.5, 0.6]


def same(ours, theirs):
    for name in ("macro_f1", "micro_f1", "strict_macro_f1"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-12)
    pd.testing.assert_frame_equal(ours.classwise, theirs.classwise, check_dtype=False)


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
    reference = pd.DataFrame(rows, columns=COLUMNS)
    durations = pd.DataFrame({"filename": names, "duration": random.choice([5.5, 6.0], clips)})
    return posteriors, names, reference, durations, labels


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
    ours = evaluate(posteriors, names, reference, durations, labels, thresholds=THRESHOLDS, **times)
    points = decode(posteriors, names, labels, thresholds=THRESHOLDS, **times)
    same(ours.event, reference_scores.event_based(reference, points[0.5]))
    same(ours.segment, reference_scores.segment_based(reference, points[0.5]))
    same(ours.intersection, reference_scores.intersection_based(reference, points[0.5], durations))
    for scenario, value in ((1, ours.psds1), (2, ours.psds2)):
        expected = reference_scores.psds(points, reference, durations, scenario=scenario)
        assert value == pytest.approx(expected, abs=1e-12)


@needs_verify
@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 100_000), resolution=st.sampled_from([0.5, 1.0, 2.5]))
def test_tables_and_other_settings_equal_too(seed, resolution):
    posteriors, names, reference, durations, labels = random_set(seed, 4, 3, True)
    if reference["event_label"].isna().all():
        return
    found = decode(posteriors, names, labels, frame_seconds=FRAME, clip_seconds=6.0)[0.5]
    scorer = Scorer(reference, durations, labels)
    loose = {"collar": 0.5, "offset_ratio": 0.5}
    same(
        scorer.event_based(found, **loose),
        reference_scores.event_based(reference, found, **loose),
    )
    same(
        scorer.segment_based(found, resolution=resolution),
        reference_scores.segment_based(reference, found, resolution=resolution),
    )
    same(
        scorer.intersection_based(found.sample(frac=1, random_state=0)),
        reference_scores.intersection_based(reference, found, durations),
    )
    expected = [
        reference_scores.psds({0.5: found}, reference, durations, scenario=n) for n in (1, 2)
    ]
    assert scorer.psds({0.5: found}) == pytest.approx(expected, abs=1e-12)


@needs_verify
def test_optimal_matching_where_a_greedy_one_loses_an_event():
    # Both estimates fit the first reference event, only the first one fits the second.
    reference = pd.DataFrame(
        [["a.wav", 1.0, 2.0, "Dog"], ["a.wav", 1.3, 2.3, "Dog"]], columns=COLUMNS
    )
    estimated = pd.DataFrame(
        [["a.wav", 1.15, 2.15, "Dog"], ["a.wav", 0.85, 1.85, "Dog"]], columns=COLUMNS
    )
    assert reference_scores.event_based(reference, estimated).micro_f1 == 1.0
    apart = reference.assign(filename=["a.wav", "b.wav"])
    durations = pd.DataFrame({"filename": ["a.wav", "b.wav"], "duration": 10.0})
    scorer = Scorer(apart, durations)
    scorer.reference = scorer.reference._replace(clip=np.zeros(2, dtype=int))
    assert scorer.event_based(estimated).micro_f1 == 1.0


@needs_verify
def test_real_predictions():
    reference, durations, estimated, points = (
        pd.read_csv(GOLDEN / f"{name}.tsv", sep="\t")
        for name in ("reference", "durations", "predictions", "operating_points")
    )
    points = {t: rows[COLUMNS] for t, rows in points.groupby("threshold")}
    scorer = Scorer(reference, durations)
    same(scorer.event_based(estimated), reference_scores.event_based(reference, estimated))
    same(scorer.segment_based(estimated), reference_scores.segment_based(reference, estimated))
    same(
        scorer.intersection_based(estimated),
        reference_scores.intersection_based(reference, estimated, durations),
    )
    expected = [reference_scores.psds(points, reference, durations, scenario=n) for n in (1, 2)]
    assert scorer.psds(points) == pytest.approx(expected, abs=1e-12)


def test_without_durations():
    reference, durations, estimated = (
        pd.read_csv(GOLDEN / f"{name}.tsv", sep="\t")
        for name in ("reference", "durations", "predictions")
    )
    without, scorer = Scorer(reference), Scorer(reference, durations)
    same(without.event_based(estimated), scorer.event_based(estimated))
    same(without.segment_based(estimated), scorer.segment_based(estimated))
    for call in (without.intersection_based, lambda table: without.psds({0.5: table})):
        with pytest.raises(InputError, match="there are no durations"):
            call(estimated)


@pytest.mark.slow
def test_published_scores_of_the_official_teacher(shared):
    golden = shared / "golden" / "desed2021_teacher"
    reference = pd.read_csv(shared / "golden/desed_metadata/validation.tsv", sep="\t")
    durations = pd.read_csv(shared / "golden/desed_metadata/validation_durations.tsv", sep="\t")
    estimated = pd.read_csv(golden / "predictions0.5.csv", index_col=0)
    points = {
        float(path.stem.rsplit("_", 1)[1]): pd.read_csv(path, sep="\t")
        for path in (golden / "operating_points").glob("*.tsv")
    }
    scorer = Scorer(reference, durations)
    event, segment = scorer.event_based(estimated), scorer.segment_based(estimated)
    assert f"{event.macro_f1:.2%} {event.micro_f1:.2%}" == "42.14% 42.35%"
    assert f"{segment.macro_f1:.2%} {segment.micro_f1:.2%}" == "71.57% 77.03%"
    assert f"{scorer.psds(points)[0]:.3f}" == "0.353"


def small():
    return random_set(3, 4, 3, False)


TIMES = {"frame_seconds": FRAME, "clip_seconds": 6.0}


def test_clips_may_differ_in_length():
    posteriors, names, reference, durations, labels = small()
    posteriors[2, 40:] = 0
    ragged = [*posteriors[:2], posteriors[2][:50], posteriors[3]]
    whole = evaluate(posteriors, names, reference, durations, labels, **TIMES)
    assert evaluate(ragged, names, reference, durations, labels, **TIMES).summary() == (
        whole.summary()
    )


def test_a_clip_without_posteriors_counts_as_missed():
    posteriors, names, reference, durations, labels = small()
    silent = posteriors.copy()
    silent[1] = 0
    expected = evaluate(silent, names, reference, durations, labels, **TIMES)
    rest = [0, 2, 3]
    ours = evaluate(
        posteriors[rest], [names[i] for i in rest], reference, durations, labels, **TIMES
    )
    assert ours.summary() == expected.summary()
    assert (ours.counts == expected.counts).all()


def test_counts_of_clips_add_up_to_the_scores():
    posteriors, names, reference, durations, labels = small()
    found = evaluate(posteriors, names, reference, durations, labels, **TIMES)
    assert found.clips == list(reference["filename"].unique())
    assert found.classes == labels
    total = found.counts.sum(axis=0)
    assert (total == found.event.classwise.loc[labels, ["n_ref", "n_est", "tp"]]).all(axis=None)


def test_nothing_found():
    posteriors, names, reference, durations, labels = small()
    found = evaluate(posteriors * 0, names, reference, durations, labels, **TIMES)
    assert set(found.summary().values()) == {0.0}
    assert Scorer(reference, durations).psds({0.5: pd.DataFrame()}) == (0.0, 0.0)


def test_inputs_are_never_modified():
    given = small()
    copies = [item.copy() for item in given]
    evaluate(*given, **TIMES)
    assert (given[0] == copies[0]).all()
    for table, copy in zip(given[2:4], copies[2:4]):
        pd.testing.assert_frame_equal(table, copy)


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (0, lambda x: x[:3], "3 clips for 4 filenames"),
        (0, lambda x: x[..., :2], "3 classes"),
        (0, lambda x: [*x[:3], x[3][:, :2]], "3 classes"),
        (0, lambda x: x * 2, "in \\[0, 1\\]"),
        (1, lambda x: [*x[:3], "zebra.wav"], "zebra.wav is not in the reference"),
        (1, lambda x: [*x[:3], x[0]], "'000.wav' is given twice"),
        (2, lambda x: x.drop(columns="offset"), "lacks the column 'offset'"),
        (3, lambda x: x[:2], "has no duration"),
        (4, lambda x: ["class0", "class1", "class1"], "'class1' is given twice"),
    ],
)
def test_bad_input_is_named(place, change, words):
    given = list(small())
    given[place] = change(given[place])
    with pytest.raises(InputError, match=words):
        evaluate(*given, **TIMES)


def test_bad_detections_are_named():
    _, names, reference, durations, labels = small()
    scorer = Scorer(reference, durations, labels)
    strange = pd.DataFrame([[names[0], 1.0, 2.0, "Bell"]], columns=COLUMNS)
    for score in (scorer.event_based, scorer.intersection_based):
        with pytest.raises(InputError, match="'Bell', which is none of class0"):
            score(strange)
    with pytest.raises(InputError, match=r"zebra\.wav is not in the reference"):
        scorer.event_based(strange.assign(filename="zebra.wav", event_label="class0"))
    with pytest.raises(InputError, match="operating_points is empty"):
        scorer.psds({})
    with pytest.raises(InputError, match="threshold is 2"):
        evaluate(*small(), threshold=2, **TIMES)
