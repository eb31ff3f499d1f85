from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import needs_verify

from lab.data.annotations import wrong_name
from lab.errors import InputError
from lab.evaluation import reference as reference_scores
from lab.evaluation.profile import (
    ALL,
    OF_ESTIMATES,
    OF_REFERENCE,
    OFFICIAL,
    OFFICIAL_COUNTS,
    error_profile,
    of_systems,
    pooled,
    profile_table,
    profile_text,
)

TABLE = ["filename", "onset", "offset", "event_label"]


def dogs(*times, label="Dog", name="a.wav"):
    return pd.DataFrame([(name, *pair, label) for pair in times], columns=TABLE)


def with_clip(table, name="a.wav"):
    """The table, with a clip without events."""
    return pd.DataFrame([*table.to_numpy().tolist(), [name, None, None, None]], columns=TABLE)


def outcomes(row):
    """The outcomes that are not 0."""
    return {name: n for name, n in row[[*OF_REFERENCE, *OF_ESTIMATES]].items() if n}


# One event from 2 to 4 s: the onset may be off by 0.2 s, the offset by 0.4 s.
@pytest.mark.parametrize(
    ("estimated", "expected"),
    [
        ([(2.15, 4.35)], {"hit": 1, "est_hit": 1}),
        ([(1.85, 3.65)], {"hit": 1, "est_hit": 1}),
        ([(2.25, 4.0)], {"onset_wrong": 1, "est_boundary_wrong": 1}),
        ([(1.7, 4.0)], {"onset_wrong": 1, "est_boundary_wrong": 1}),
        ([(2.0, 4.5)], {"offset_wrong": 1, "est_boundary_wrong": 1}),
        ([(2.0, 3.0)], {"offset_wrong": 1, "est_boundary_wrong": 1}),
        ([(2.5, 3.5)], {"both_wrong": 1, "est_boundary_wrong": 1}),
        ([(0.0, 9.0)], {"both_wrong": 1, "est_boundary_wrong": 1}),
        ([(2.0, 2.5), (3.0, 4.0)], {"fragmented": 1, "est_boundary_wrong": 2}),
        ([(2.0, 2.5), (2.6, 2.9)], {"offset_wrong": 1, "est_boundary_wrong": 2}),
        # Pieces, but one of them is right: the event is found, the other piece is too much.
        ([(2.0, 3.7), (3.8, 4.0)], {"hit": 1, "est_hit": 1, "est_duplicate": 1}),
        ([(2.0, 4.0), (2.1, 4.1)], {"hit": 1, "est_hit": 1, "est_duplicate": 1}),
        ([(2.0, 2.5), (2.0, 2.7)], {"offset_wrong": 1, "est_boundary_wrong": 2}),
        ([], {"missed": 1}),
        # Touching is not overlapping.
        ([(1.0, 2.0), (4.0, 4.1)], {"missed": 1, "est_false_alarm": 2}),
    ],
)
def test_one_event(estimated, expected):
    profile = error_profile(dogs((2.0, 4.0)), dogs(*estimated))
    assert outcomes(profile.loc["Dog"]) == expected
    assert (profile.loc["Dog", "events"], profile.loc["Dog", "estimated"]) == (1, len(estimated))
    assert profile.loc[ALL].tolist() == profile.loc["Dog"].tolist()


def test_classes_and_clips_do_not_mix():
    reference = with_clip(
        pd.concat([dogs((2.0, 4.0)), dogs((6.0, 8.0), label="Cat")], ignore_index=True), "b.wav"
    )
    estimated = pd.concat(
        [
            dogs((2.0, 4.0), label="Bell"),  # on a dog
            dogs((0.0, 10.0), label="Cat"),  # on a cat and a dog
            dogs((2.0, 4.0), name="b.wav"),  # where nothing is
        ]
    )
    profile = error_profile(reference, estimated)
    assert profile.index.tolist() == ["Bell", "Cat", "Dog", ALL]
    assert outcomes(profile.loc["Bell"]) == {"est_other_class": 1}
    assert outcomes(profile.loc["Cat"]) == {"both_wrong": 1, "est_boundary_wrong": 1}
    assert outcomes(profile.loc["Dog"]) == {"missed": 1, "est_false_alarm": 1}
    assert profile.loc[ALL, ["events", "estimated"]].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("reference", "estimated", "expected"),
    [
        # One estimate may serve two events, and is counted once.
        ([(2.0, 4.0), (2.1, 4.1)], [(2.05, 4.05)], {"hit": 2, "est_hit": 1}),
        # As many pairs as possible: the first estimate hits both events, the second only one.
        ([(2.0, 4.0), (2.3, 4.0)], [(2.15, 4.0), (1.9, 4.0)], {"hit": 2, "est_hit": 2}),
        # A duplicate is one without which nothing is lost.
        (
            [(2.0, 4.0), (6.0, 8.0)],
            [(2.0, 4.0), (3.0, 7.0)],
            {"hit": 1, "both_wrong": 1, "est_hit": 1, "est_boundary_wrong": 1},
        ),
        (
            [(2.0, 4.0), (6.0, 8.0)],
            [(2.0, 4.0), (6.0, 8.0), (3.0, 7.0)],
            {"hit": 2, "est_hit": 2, "est_duplicate": 1},
        ),
    ],
)
def test_two_events(reference, estimated, expected):
    assert outcomes(error_profile(dogs(*reference), dogs(*estimated)).loc[ALL]) == expected


def test_collar_and_ratio():
    reference, estimated = dogs((0.0, 10.0)), dogs((0.4, 8.5))
    assert error_profile(reference, estimated).loc[ALL, "onset_wrong"] == 1
    assert error_profile(reference, estimated, collar=0.5).loc[ALL, "hit"] == 1
    both = error_profile(reference, estimated, collar=0.5, offset_ratio=0.1)
    assert both.loc[ALL, "offset_wrong"] == 1


@pytest.mark.parametrize("rows", [[], [["a.wav", None, None, None]]])
def test_tables_without_events(rows):
    empty = pd.DataFrame(rows, columns=TABLE)
    assert error_profile(empty, empty).to_numpy().tolist() == [[0] * 13]
    assert outcomes(error_profile(dogs((0.0, 1.0)), empty).loc[ALL]) == {"missed": 1}


def test_no_class_is_named_as_the_sum_is():
    assert error_profile(dogs((0, 1), label="all"), dogs()).index.tolist() == ["all", ALL]
    assert wrong_name(ALL)


def test_detections_in_an_unknown_clip_are_named():
    with pytest.raises(InputError, match=r"b\.wav is not"):
        error_profile(dogs((0, 1)), dogs((0, 1), name="b.wav"))


def overlap(one, other):
    """Whether two events share some time of a clip, as an interval of some length."""
    return one.filename == other.filename and (
        max(one.onset, other.onset) < min(one.offset, other.offset)
    )


def judge(event, estimates, collar, offset_ratio):
    """What became of one reference event, as the words say it."""
    met = onsets = offsets = 0
    for other in estimates:
        if other.event_label != event.event_label or not overlap(event, other):
            continue
        onset = abs(other.onset - event.onset) <= collar
        offset = abs(other.offset - event.offset) <= max(
            collar, offset_ratio * (event.offset - event.onset)
        )
        if onset and offset:
            return "hit"
        met, onsets, offsets = met + 1, onsets + onset, offsets + offset
    if not met:
        return "missed"
    if onsets:
        return "fragmented" if offsets else "offset_wrong"
    return "onset_wrong" if offsets else "both_wrong"


def largest_matching(choices, taken=frozenset()):
    """Number of estimates that find an event of their own, by trying everything."""
    if not choices:
        return 0
    best = largest_matching(choices[1:], taken)
    for event in choices[0] - taken:
        best = max(best, 1 + largest_matching(choices[1:], taken | {event}))
    return best


def slow_profile(reference, estimated, collar=0.2, offset_ratio=0.2):
    """The counts of all classes, event by event."""
    events = list(reference.itertuples(index=False))
    estimates = list(estimated.itertuples(index=False))
    counts = dict.fromkeys([*OF_REFERENCE, *OF_ESTIMATES], 0)
    became = [judge(event, estimates, collar, offset_ratio) for event in events]
    for outcome in became:
        counts[outcome] += 1
    could_hit = []
    for estimate in estimates:
        alone = [judge(event, [estimate], collar, offset_ratio) for event in events]
        own = {became[i] for i, outcome in enumerate(alone) if outcome != "missed"}
        if "hit" in alone:
            could_hit.append({i for i, outcome in enumerate(alone) if outcome == "hit"})
        elif own:
            counts["est_duplicate" if own == {"hit"} else "est_boundary_wrong"] += 1
        elif any(overlap(event, estimate) for event in events):
            counts["est_other_class"] += 1
        else:
            counts["est_false_alarm"] += 1
    counts["est_hit"] = largest_matching(could_hit)
    counts["est_duplicate"] += len(could_hit) - counts["est_hit"]
    return counts


# Times on a grid of 0.1 s: edges often lie on the collar, overlaps are common.
times = st.tuples(st.integers(0, 25), st.integers(0, 12)).map(
    lambda pair: (pair[0] / 10, (pair[0] + pair[1]) / 10)
)
events = st.lists(st.tuples(times, st.sampled_from(["Cat", "Dog"])), max_size=7).map(
    lambda rows: pd.DataFrame([("a.wav", *pair, label) for pair, label in rows], columns=TABLE)
)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(reference=events, estimated=events)
def test_the_fast_profile_is_the_slow_one(reference, estimated):
    profile = error_profile(with_clip(reference), estimated)
    assert profile.loc[ALL, [*OF_REFERENCE, *OF_ESTIMATES]].to_dict() == slow_profile(
        reference, estimated
    )
    assert (profile[list(OF_REFERENCE)].sum(axis=1) == profile["events"]).all()
    assert (profile[list(OF_ESTIMATES)].sum(axis=1) == profile["estimated"]).all()
    assert (profile["est_hit"] <= profile["hit"]).all()
    assert (profile.drop(ALL).sum() == profile.loc[ALL]).all()


@pytest.fixture(scope="module")
def official(shared):
    """Reference and predictions of the official 2021 teacher."""
    golden = shared / "golden"
    return (
        pd.read_csv(golden / "desed_metadata" / "validation.tsv", sep="\t"),
        pd.read_csv(golden / "desed2021_teacher" / "predictions0.5.csv", index_col=0),
    )


def test_the_official_teacher_on_desed(official):
    result = error_profile(*official).loc[ALL]
    shares = (100 * result[list(OF_REFERENCE)] / result["events"]).round(1)
    assert result["events"] == 4224
    assert shares.tolist() == [38.0, 12.2, 12.7, 9.2, 1.3, 26.5]
    assert result.to_dict() == OFFICIAL_COUNTS


@needs_verify
@pytest.mark.slow
def test_hits_are_the_true_positives_of_the_event_based_f1(official):
    classwise = reference_scores.event_based(*official).classwise
    assert (error_profile(*official)["est_hit"].drop(ALL) == classwise["tp"]).all()


def test_trials_are_summed():
    one = error_profile(dogs((2.0, 4.0)), dogs((2.0, 4.0)))
    other = error_profile(dogs((2.0, 4.0)), dogs((2.0, 4.0), label="Zebra"))
    total = pooled([other, one])
    assert total.index.tolist() == ["Dog", "Zebra", ALL]
    assert outcomes(total.loc[ALL]) == {"hit": 1, "missed": 1, "est_hit": 1, "est_other_class": 1}
    assert total.loc[ALL, "events"] == 2


def test_systems_in_percent_beside_the_official_one():
    profile = error_profile(dogs((2.0, 4.0), (5.0, 6.0), (7.0, 8.0)), dogs((2.0, 4.0)))
    counts = of_systems({"ours": profile, "nothing": 0 * profile})
    events, estimates = (profile_table(counts, of) for of in ("events", "estimated"))
    assert events.loc["ours"].tolist() == ["3", "33.3", "0.0", "0.0", "0.0", "0.0", "66.7"]
    assert events.loc[OFFICIAL].tolist()[:3] == ["4,224", "38.0", "12.2"]
    assert estimates.loc["ours"].tolist() == ["1", "100.0", "0.0", "0.0", "0.0", "0.0"]
    assert events.loc["nothing"].tolist() == ["0", *["-"] * 6]
    assert list(estimates.columns)[1:4] == ["hit", "duplicate", "boundary wrong"]
    assert of_systems({"ours": profile}, official=False).index.tolist() == ["ours"]
    text = profile_text(counts)
    assert "What the estimated events are (%)" in text
    assert text.count("ours") == 2
