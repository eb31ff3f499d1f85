"""Is one model better than the other? t-tests over trials, a paired bootstrap over clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import InputError

EFFECT = 0.02  # difference of macro event F1 that advice on seeds is for
CHUNK = 500  # resamples at once: 500 x 1,000 clips are 4 MB


@dataclass(frozen=True)
class TTest:
    """Scores of trials of two models, compared.

    Attributes:
        difference: mean of the second minus mean of the first.
        p_student: two-sided p of the two-sample t-test with pooled variance (the paper's).
        p_welch: the same without the assumption of equal variances (Welch's).
        low: lower end of the 95 % interval of the difference (Welch's).
        high: upper end.
    """

    difference: float
    p_student: float
    p_welch: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Scores of two models over the same seeds, compared.

    Attributes:
        difference: mean of the second minus mean of the first.
        p_t: two-sided p of the paired t-test.
        p_wilcoxon: two-sided p of Wilcoxon's signed-rank test.
        low: lower end of the 95 % interval of the difference (paired t).
        high: upper end.
        deviation: standard deviation of the differences.
    """

    difference: float
    p_t: float
    p_wilcoxon: float
    low: float
    high: float
    deviation: float


@dataclass(frozen=True)
class Bootstrap:
    """Difference of macro F1 of two models on the same clips, second minus first.

    Attributes:
        difference: on all clips, in [-1, 1].
        low: lower end of the interval.
        high: upper end.
        confidence: probability that the interval stands for.
        classwise: one row a class (index "class") with difference, low, high.
    """

    difference: float
    low: float
    high: float
    confidence: float
    classwise: pd.DataFrame


def t_test(first: Sequence[float], second: Sequence[float]) -> TTest:
    """Compare the scores of independent trials of two models.

    With fewer than two trials of a model, or no variance at all, p and the interval are NaN: there
    is no test.

    Args:
        first: one score a trial.
        second: one score a trial; as many as there are.

    Raises:
        InputError: a model has no trial, or a score is not a number.

    Example:
        >>> test = t_test([0.40, 0.42, 0.41], [0.43, 0.44, 0.45])
        >>> print(f"{test.difference:.3f} {test.p_student:.3f}")
        0.030 0.021
    """
    one, two = (np.asarray(list(trials), dtype=float) for trials in (first, second))
    for trials in (one, two):
        if not len(trials) or not np.isfinite(trials).all():
            raise InputError(
                f"the scores of the trials are {trials.tolist()}; give a number for each trial"
            )
    p_student = p_welch = low = high = float("nan")
    if min(len(one), len(two)) > 1 and np.ptp(one) + np.ptp(two) > 0:
        p_student = float(stats.ttest_ind(two, one, equal_var=True).pvalue)
        welch = stats.ttest_ind(two, one, equal_var=False)
        p_welch = float(welch.pvalue)
        low, high = map(float, welch.confidence_interval(0.95))
    return TTest(float(two.mean() - one.mean()), p_student, p_welch, low, high)


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare the scores of trials of two models that share their seeds.

    With fewer than two pairs, or differences that are all the same, p and the interval are NaN.

    Args:
        first: one score a seed.
        second: the other model's, in the order of the same seeds.

    Raises:
        InputError: they are not as many, or a score is not a number.

    Source: Student, 1908; Wilcoxon, "Individual comparisons by ranking methods", 1945.

    Example:
        >>> test = paired_test([0.40, 0.42, 0.41, 0.44], [0.43, 0.44, 0.45, 0.46])
        >>> print(f"{test.difference:.4f} {test.p_t:.3f} {test.p_wilcoxon:.3f}")
        0.0275 0.010 0.125
    """
    one, two = (np.asarray(list(trials), dtype=float) for trials in (first, second))
    if len(one) != len(two) or not len(one) or not np.isfinite([*one, *two]).all():
        raise InputError(
            f"the scores of the trials are {one.tolist()} and {two.tolist()}; give a number for "
            "each seed, the same seeds for both"
        )
    changes = two - one
    p_t = p_wilcoxon = low = high = deviation = float("nan")
    if len(changes) > 1 and np.ptp(changes) > 0:
        test = stats.ttest_1samp(changes, 0.0)
        p_t = float(test.pvalue)
        low, high = map(float, test.confidence_interval(0.95))
        p_wilcoxon = float(stats.wilcoxon(changes).pvalue)
        deviation = float(changes.std(ddof=1))
    return PairedTest(float(changes.mean()), p_t, p_wilcoxon, low, high, deviation)


def holm(chances: Sequence[float]) -> list[float]:
    """Correct the p of several tests, so that one false alarm in all of them is as rare as p says.

    Args:
        chances: one p a test; NaN, of a test that was not made, stays and does not count.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm([0.01, 0.04, float("nan"), 0.03])
        [0.03, 0.06, nan, 0.06]
    """
    given = np.asarray(list(chances), dtype=float)
    made = np.flatnonzero(~np.isnan(given))
    order = made[np.argsort(given[made], kind="stable")]
    corrected = given.copy()
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1.0)
    return corrected.tolist()


def trials_needed(deviation: float, effect: float, *, power: float = 0.8) -> int:
    """How many seeds a paired t-test at 5 % needs to find an effect.

    Args:
        deviation: standard deviation of the differences between two models over seeds.
        effect: mean difference to be found, in the same unit.
        power: probability of finding it.

    Returns:
        The number of seeds, from 2 to 10,000.

    Raises:
        InputError: one of them is out of its range.

    Source: power of the t-test from the noncentral t distribution.

    Example:
        >>> trials_needed(deviation=2.0, effect=2.0), trials_needed(deviation=1.0, effect=2.0)
        (10, 5)
    """
    if not (deviation > 0 and effect > 0 and 0 < power < 1):
        raise InputError(
            f"deviation is {deviation}, effect {effect} and power {power}; give numbers above 0, "
            "and a power below 1"
        )

    def reached(trials: int) -> bool:
        limit = stats.t.ppf(0.975, trials - 1)
        shift = effect / deviation * np.sqrt(trials)
        found = stats.nct.sf(limit, trials - 1, shift) + stats.nct.cdf(-limit, trials - 1, shift)
        # Far out, where the power is 1, scipy's distribution has no number.
        return bool(np.isnan(found) or found >= power)

    few, many = 2, 10_000
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if reached(middle) else (middle + 1, many)
    return few


def compare_with(
    reference: str, found: Mapping[str, Sequence[Mapping[str, Any] | None]]
) -> dict[str, dict[str, Any]]:
    """Test the macro event F1 of systems against that of one of them, over the seeds of both.

    Args:
        reference: name of the system that the others are compared with.
        found: scores (`event_f1_macro`) of each system's trials, seed by seed; None for a trial
            that has none.

    Returns:
        The fields of :class:`PairedTest` by name of the system, with `pairs` (seeds of both),
        `seeds` (see :func:`trials_needed`, for a difference of :data:`EFFECT`; None where the
        differences do not vary) and `p_holm`, of the t-test. A system without a pair is left out.
    """
    tests: dict[str, dict[str, Any]] = {}
    for name, trials in found.items():
        pairs = [
            (one["event_f1_macro"], other["event_f1_macro"])
            for one, other in zip(found[reference], trials)
            if one and other
        ]
        if name != reference and pairs:
            test = paired_test(*zip(*pairs))
            seeds = trials_needed(test.deviation, EFFECT) if test.deviation > 0 else None
            tests[name] = {**test.__dict__, "pairs": len(pairs), "seeds": seeds}
    for name, chance in zip(tests, holm([test["p_t"] for test in tests.values()])):
        tests[name]["p_holm"] = chance
    return tests


def f1_of_counts(counts: np.ndarray) -> np.ndarray:
    """F1 of each class, NaN for a class without a reference event.

    Args:
        counts: `(..., classes, 3)`: reference events, estimated events, true positives.

    Returns:
        `(..., classes)`, in [0, 1].

    Example:
        >>> f1_of_counts(np.array([[4, 4, 2], [0, 1, 0]]))
        array([0.5, nan])
    """
    n_ref, n_est, tp = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    f1 = np.full(n_ref.shape, np.nan)
    np.divide(2 * tp, n_ref + n_est, out=f1, where=n_ref > 0)
    return f1


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    classes: Sequence[str],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Interval of the difference of macro event-based F1 under another draw of the clips.

    Clips are drawn with replacement, the same for both models (and for all their trials, whose
    scores are averaged); the interval holds the percentiles of the differences. It speaks of
    other clips, not of other trainings: for those there is :func:`t_test`.

    Args:
        first: counts `(clips, classes, 3)` or `(trials, clips, classes, 3)` of reference events,
            estimated events and true positives, as :class:`scores.Evaluation` holds them.
        second: the same of the other model, for the same clips; trials may be more or fewer.
        classes: class names, in the order of the counts.
        resamples: number of draws.
        confidence: probability that the interval stands for.
        seed: of the draws.

    Raises:
        InputError: shapes do not fit, or no class has a reference event.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    models = [np.asarray(counts) for counts in (first, second)]
    models = [counts[None] if counts.ndim == 3 else counts for counts in models]
    expected = (models[0].shape[1] if models[0].ndim == 4 else 0, len(classes), 3)
    for counts in models:
        if counts.ndim != 4 or counts.shape[1:] != expected or not counts.size:
            raise InputError(
                f"counts have the shapes {np.shape(first)} and {np.shape(second)}; give "
                f"(trials, clips, {len(classes)} classes, 3) of the same clips for both models"
            )
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"resamples is {resamples} and confidence {confidence}; give at least one draw and a "
            "probability in (0, 1)"
        )
    if not models[0][..., 0].any():
        raise InputError("no class has a reference event; there is no F1 to compare")
    clips = expected[0]
    random = np.random.default_rng(seed)
    observed = _differences(models, np.ones((1, clips)))
    draws = np.concatenate(
        [
            _differences(models, _weights(random, min(CHUNK, resamples - start), clips))
            for start in range(0, resamples, CHUNK)
        ]
    )
    tail = (1 - confidence) / 2
    known = ~np.isnan(observed[0])
    # A draw may miss a class altogether; its difference is then left out.
    low, high = np.full((2, len(classes) + 1), np.nan)
    low[known], high[known] = np.nanquantile(draws[:, known], [tail, 1 - tail], axis=0)
    table = pd.DataFrame(
        {"difference": observed[0, 1:], "low": low[1:], "high": high[1:]},
        index=pd.Index(list(classes), name="class"),
    )
    return Bootstrap(float(observed[0, 0]), float(low[0]), float(high[0]), confidence, table)


def _weights(random: np.random.Generator, draws: int, clips: int) -> np.ndarray:
    """How often each clip is drawn `(draws, clips)`."""
    drawn = random.integers(0, clips, (draws, clips)) + clips * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * clips).reshape(draws, clips).astype(float)


def _differences(models: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Differences `(draws, 1 + classes)` of macro F1 and of each class's F1."""
    means = []
    for counts in models:
        trials, clips, classes, kinds = counts.shape
        by_clip = counts.transpose(1, 0, 2, 3).reshape(clips, -1).astype(float)
        f1 = f1_of_counts((weights @ by_clip).reshape(-1, trials, classes, kinds)).mean(axis=1)
        known = ~np.isnan(f1)
        macro = np.where(known, f1, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        means.append(np.column_stack([macro, f1]))
    return means[1] - means[0]


def comparison(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    names: Sequence[str] = ("baseline", "coherence"),
) -> pd.DataFrame:
    """Table of two models: mean and standard deviation over trials, difference, both p.

    Args:
        first: scores of each trial, by name of the score.
        second: the same of the other model; scores that both have are compared.
        names: of the two models.

    Returns:
        One row a score (index "score"): mean and std (over trials, NaN for one) of each model,
        difference, p (t-test), p (Welch).

    Example:
        >>> table = comparison({"event F1": [0.40, 0.42]}, {"event F1": [0.43, 0.45]})
        >>> list(table)[:3]
        ['baseline mean', 'baseline std', 'coherence mean']
        >>> round(float(table.loc["event F1", "difference"]), 3)
        0.03
    """
    rows = {}
    for score in first:
        if score not in second:
            continue
        test = t_test(first[score], second[score])
        row = {}
        for name, trials in zip(names, (first[score], second[score])):
            row[f"{name} mean"] = float(np.mean(trials))
            row[f"{name} std"] = float(np.std(trials, ddof=1)) if len(trials) > 1 else np.nan
        row["difference"] = test.difference
        row["p (t-test)"], row["p (Welch)"] = test.p_student, test.p_welch
        rows[score] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("score")
