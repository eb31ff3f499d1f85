from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

from lab.evaluation import significance
from lab.evaluation.significance import compare, paired_bootstrap


def counts_of(seed, clips, quality, trials=1):
    random = np.random.default_rng(seed)
    shape = (trials, clips, 2)
    n_ref = np.broadcast_to(np.random.default_rng(99).integers(0, 4, (clips, 2)), shape)
    tp = random.binomial(n_ref, quality)
    return np.stack([n_ref, tp + random.integers(0, 2, shape), tp], axis=-1)


def slow_bootstrap(first, second, draws):
    """Resample clips one draw after the other."""

    def macro(counts, clips):
        n_ref, n_est, tp = np.moveaxis(counts[:, clips].sum(axis=1), -1, 0)
        return (2 * tp / (n_ref + n_est))[n_ref > 0].mean()

    return np.array([macro(second, clips) - macro(first, clips) for clips in draws])


@pytest.mark.parametrize("trials", [1, 3])
def test_bootstrap_equals_the_slow_one(trials):
    first, second = counts_of(0, 20, 0.4, trials), counts_of(1, 20, 0.6, trials)
    ours = paired_bootstrap(first, second, resamples=700, seed=5)
    random = np.random.default_rng(5)
    draws = [random.integers(0, 20, (n, 20)) for n in (500, 200)]
    slow = slow_bootstrap(first, second, np.concatenate(draws))
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert ours.difference == pytest.approx(slow_bootstrap(first, second, [np.arange(20)])[0])


def test_the_interval_tells_a_real_difference_from_none():
    better = paired_bootstrap(counts_of(0, 300, 0.4), counts_of(1, 300, 0.7))
    assert 0 < better.low < better.difference < better.high
    same = paired_bootstrap(counts_of(0, 300, 0.5), counts_of(1, 300, 0.5))
    assert same.low < 0 < same.high
    identical = paired_bootstrap(counts_of(0, 300, 0.5), counts_of(0, 300, 0.5))
    assert identical == (0, 0, 0)


def test_pairing_narrows_the_interval():
    first = counts_of(0, 200, 0.5)
    # One event more found in every tenth clip: clips differ much, models little.
    second = first.copy()
    second[:, ::10, :, 2] = np.minimum(second[:, ::10, :, 2] + 1, second[:, ::10, :, 0])
    paired = paired_bootstrap(first, second)
    shuffled = np.random.default_rng(0).permutation(200)
    unpaired = paired_bootstrap(first, second[:, shuffled])
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_a_class_without_reference_events_does_not_count():
    first, second = counts_of(0, 20, 0.4), counts_of(1, 20, 0.6)
    first[..., 1, 0] = second[..., 1, 0] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = paired_bootstrap(first, second, resamples=50)
    assert both == paired_bootstrap(first[..., :1, :], second[..., :1, :], resamples=50)


def test_paired_tests_are_those_of_scipy_and_see_what_pairs_share():
    first = [0.40, 0.50, 0.60, 0.45, 0.55]
    second = [0.42, 0.51, 0.63, 0.47, 0.56]
    test = significance.paired_test(first, second)
    assert test.p_t == pytest.approx(stats.ttest_rel(second, first).pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(second, first).pvalue)
    assert test.difference == pytest.approx(0.018)
    assert test.low < test.difference < test.high
    assert test.low + test.high == pytest.approx(2 * test.difference)
    # Unpaired, the spread between seeds hides it.
    assert test.p_t < 0.01 < 0.5 < stats.ttest_ind(first, second).pvalue


@pytest.mark.parametrize("same", [[0.5], [0.5, 0.6]])
def test_no_paired_test_without_a_spread(same):
    test = significance.paired_test(same, [score + 0.1 for score in same])
    assert test.difference == pytest.approx(0.1)
    assert np.isnan(test.p_t) or test.p_t < 1e-6


def test_settings_are_compared_over_the_seeds_of_both():
    scores = {
        "a": {1: 0.40, 2: 0.42, 3: 0.41, 4: 0.44},
        "b": {2: 0.44, 3: 0.45, 4: 0.46, 5: 0.99},
        "c": {1: 0.35},
        "d": {7: 0.50},
    }
    table = compare("a", scores)
    assert list(table.index) == ["b", "c"]
    test = significance.paired_test([0.42, 0.41, 0.44], [0.44, 0.45, 0.46])
    assert {name: table.loc["b", name] for name in vars(test)} == vars(test)
    assert table.loc["b", "needed"] == significance.trials_needed(test.deviation, 0.02)
    assert table["seeds"].tolist() == [3, 1]
    # One seed is no test, and does not count as one.
    assert table.loc["b", "p_holm"] == test.p_t
    assert table.loc["c", ["p_t", "p_holm", "low", "needed"]].isna().all()
    assert table.loc["c", "difference"] == pytest.approx(-0.05)
    assert "1 seed, which proves nothing" in significance.weight_of(table)
    assert "proves nothing" not in significance.weight_of(table.loc[["b"]])
    assert compare("a", {"a": {1: 0.5}}).empty


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
    result = (stats.ttest_1samp(changes, 0.0, axis=1).pvalue < 0.05).mean()
    fewer = (stats.ttest_1samp(changes[:, :-1], 0.0, axis=1).pvalue < 0.05).mean()
    assert fewer < 0.8 < result + 0.01
