from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lab.errors import InputError
from lab.evaluation import significance
from lab.evaluation.significance import (
    comparison,
    f1_of_counts,
    paired_bootstrap,
    t_test,
)

CLASSES = ["Cat", "Dog"]


def counts_of(seed, clips, quality, trials=None):
    random = np.random.default_rng(seed)
    shape = (clips, 2) if trials is None else (trials, clips, 2)
    n_ref = np.broadcast_to(np.random.default_rng(99).integers(0, 4, (clips, 2)), shape)
    tp = random.binomial(n_ref, quality)
    return np.stack([n_ref, tp + random.integers(0, 2, shape), tp], axis=-1)


def test_t_tests_are_scipys_and_two_sided():
    one, two = [0.40, 0.43, 0.41], [0.44, 0.42, 0.47, 0.45]
    test = t_test(one, two)
    assert test.difference == pytest.approx(np.mean(two) - np.mean(one))
    assert test.p_student == pytest.approx(stats.ttest_ind(one, two).pvalue)
    assert test.p_welch == pytest.approx(stats.ttest_ind(one, two, equal_var=False).pvalue)
    assert t_test(two, one).p_student == pytest.approx(test.p_student)


def test_the_interval_is_welchs_and_touches_zero_at_its_own_p():
    one, two = np.array([0.40, 0.43, 0.41]), np.array([0.44, 0.42, 0.47, 0.45])
    test = t_test(one, two)
    assert test.low + test.high == pytest.approx(2 * test.difference)
    assert t_test(one, two - test.low).p_welch == pytest.approx(0.05)


def test_p_of_the_pooled_test_by_hand():
    # t = 2 / sqrt(1 * 2 / 3), 4 degrees of freedom.
    expected = 2 * stats.t.sf(2 / np.sqrt(2 / 3), 4)
    assert t_test([1, 2, 3], [3, 4, 5]).p_student == pytest.approx(expected)


@pytest.mark.parametrize(("one", "two"), [([0.4], [0.5]), ([0.4, 0.4], [0.5, 0.5])])
def test_no_variance_no_test(one, two):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test = t_test(one, two)
    assert test.difference == pytest.approx(0.1)
    assert np.isnan(test.p_student)
    assert np.isnan(test.p_welch)
    assert np.isnan(test.low)


def test_f1_of_counts_leaves_out_what_the_reference_lacks():
    counts = np.array([[2, 2, 2], [4, 0, 0], [0, 3, 0]])
    np.testing.assert_array_equal(f1_of_counts(counts), [1.0, 0.0, np.nan])


def slow_bootstrap(first, second, draws):
    """Resample clips one draw after the other."""

    def macro(counts, clips):
        return np.nanmean([np.nanmean(f1_of_counts(t[clips].sum(axis=0))) for t in counts])

    return np.array([macro(second, clips) - macro(first, clips) for clips in draws])


@pytest.mark.parametrize("trials", [1, 3])
def test_bootstrap_equals_the_slow_one(trials):
    first, second = counts_of(0, 20, 0.4, trials), counts_of(1, 20, 0.6, trials)
    ours = paired_bootstrap(first, second, CLASSES, resamples=700, seed=5)
    random = np.random.default_rng(5)
    draws = [random.integers(0, 20, (n, 20)) for n in (500, 200)]
    slow = slow_bootstrap(first, second, np.concatenate(draws))
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert ours.difference == pytest.approx(slow_bootstrap(first, second, [np.arange(20)])[0])
    if trials == 1:
        alone = paired_bootstrap(first[0], second[0], CLASSES, resamples=700, seed=5)
        pd.testing.assert_frame_equal(alone.classwise, ours.classwise)


def test_the_interval_tells_a_real_difference_from_none():
    better = paired_bootstrap(counts_of(0, 300, 0.4), counts_of(1, 300, 0.7), CLASSES)
    assert 0 < better.low < better.difference < better.high
    assert (better.classwise["low"] > 0).all()
    same = paired_bootstrap(counts_of(0, 300, 0.5), counts_of(1, 300, 0.5), CLASSES)
    assert same.low < 0 < same.high
    identical = paired_bootstrap(counts_of(0, 300, 0.5), counts_of(0, 300, 0.5), CLASSES)
    assert (identical.low, identical.difference, identical.high) == (0, 0, 0)


def test_pairing_narrows_the_interval():
    first = counts_of(0, 200, 0.5)
    # One event more found in every tenth clip: clips differ much, models little.
    second = first.copy()
    second[::10, :, 2] = np.minimum(second[::10, :, 2] + 1, second[::10, :, 0])
    paired = paired_bootstrap(first, second, CLASSES)
    shuffled = np.random.default_rng(0).permutation(200)
    unpaired = paired_bootstrap(first, second[shuffled], CLASSES)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_a_class_without_reference_events_is_nan():
    first, second = counts_of(0, 20, 0.4), counts_of(1, 20, 0.6)
    first[:, 1, 0] = second[:, 1, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_bootstrap(first, second, CLASSES, resamples=50)
    assert found.classwise.loc["Dog"].isna().all()
    assert found.difference == pytest.approx(found.classwise["difference"]["Cat"])


def test_comparison_table():
    table = comparison(
        {"event": [0.4, 0.5], "psds1": [0.3]}, {"event": [0.5, 0.7], "psds1": [0.2], "other": [1]}
    )
    assert list(table.index) == ["event", "psds1"]
    assert table.loc["event", "baseline std"] == pytest.approx(np.std([0.4, 0.5], ddof=1))
    assert table.loc["event", "difference"] == pytest.approx(0.15)
    assert table.loc["psds1", ["baseline std", "p (t-test)"]].isna().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"second": np.zeros((3, 2, 3))}, "same clips"),
        ({"classes": ["Cat"]}, "1 classes"),
        ({"first": np.zeros((20, 2))}, "shapes"),
        ({"first": np.zeros((20, 2, 3)), "second": np.zeros((20, 2, 3))}, "no class"),
        ({"resamples": 0}, "resamples is 0"),
        ({"confidence": 95}, "confidence 95"),
    ],
)
def test_bad_input_is_named(change, words):
    given = {"first": counts_of(0, 20, 0.4), "second": counts_of(1, 20, 0.4), "classes": CLASSES}
    with pytest.raises(InputError, match=words):
        paired_bootstrap(**{**given, **change})


def test_bad_scores_are_named():
    with pytest.raises(InputError, match="nan"):
        t_test([0.4, float("nan")], [0.5])
    with pytest.raises(InputError, match="number for each trial"):
        t_test([], [0.5])


def test_paired_tests_are_those_of_scipy_and_see_what_pairs_share():
    first = [0.40, 0.50, 0.60, 0.45, 0.55]
    second = [0.42, 0.51, 0.63, 0.47, 0.56]
    test = significance.paired_test(first, second)
    assert test.p_t == pytest.approx(stats.ttest_rel(second, first).pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(second, first).pvalue)
    assert test.difference == pytest.approx(0.018)
    assert test.low < test.difference < test.high
    # Unpaired, the spread between seeds hides it.
    assert test.p_t < 0.01 < 0.5 < significance.t_test(first, second).p_student


@pytest.mark.parametrize("same", [[0.5], [0.5, 0.6]])
def test_no_paired_test_without_a_spread(same):
    test = significance.paired_test(same, [score + 0.1 for score in same])
    assert test.difference == pytest.approx(0.1)
    assert np.isnan(test.p_t) or test.p_t < 1e-6


def test_pairs_must_fit():
    with pytest.raises(InputError, match="the same seeds"):
        significance.paired_test([0.1, 0.2], [0.1])


def test_holm_rejects_what_bonferroni_does_and_never_less_than_one_by_one():
    rng = np.random.default_rng(0)
    for chances in rng.random((200, 6)) ** 3:
        corrected = np.array(significance.holm(chances))
        assert (corrected >= chances).all()
        assert (corrected <= np.minimum(6 * chances, 1) + 1e-12).all()
        assert (np.diff(corrected[np.argsort(chances)]) >= 0).all()


def test_the_power_is_that_of_simulated_trials():
    trials = significance.trials_needed(1.5, 2.0, power=0.8)
    rng = np.random.default_rng(1)
    changes = rng.normal(2.0, 1.5, (20_000, trials))
    found = (stats.ttest_1samp(changes, 0.0, axis=1).pvalue < 0.05).mean()
    fewer = (stats.ttest_1samp(changes[:, :-1], 0.0, axis=1).pvalue < 0.05).mean()
    assert fewer < 0.8 < found + 0.01
