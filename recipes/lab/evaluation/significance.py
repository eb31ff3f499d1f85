"""Is one setting better than another? Paired tests over seeds, a paired bootstrap over clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, NamedTuple, Sequence

import numpy as np
import pandas as pd
from scipy import stats

EFFECT = 0.02  # difference of macro event F1 that advice on seeds is for
CHUNK = 500  # resamples at once: 500 x 1,000 clips are 4 MB


@dataclass(frozen=True)
class PairedTest:
    """Scores of two models over the same seeds, compared.

    Attributes:
        difference: mean of the second minus mean of the first.
        p_t: two-sided p of the paired t-test.
        p_wilcoxon: two-sided p of Wilcoxon's signed-rank test.
        low, high: 95 % interval of the difference (paired t).
        deviation: standard deviation of the differences.
    """

    difference: float
    p_t: float
    p_wilcoxon: float
    low: float
    high: float
    deviation: float


class Bootstrap(NamedTuple):
    """Difference of macro F1 of two settings on the same clips, second minus first.

    Attributes:
        difference: on all clips, in [-1, 1].
        low, high: 95 % interval.
    """

    difference: float
    low: float
    high: float


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare the scores of trials of two models that share their seeds.

    With fewer than two pairs, or differences that are all the same, p and the interval are NaN.

    Args:
        first: one score a seed.
        second: the other model's, in the order of the same seeds.

    Source: Student, 1908; Wilcoxon, "Individual comparisons by ranking methods", 1945.

    Example:
        >>> test = paired_test([0.40, 0.42, 0.41, 0.44], [0.43, 0.44, 0.45, 0.46])
        >>> print(f"{test.difference:.4f} {test.p_t:.3f} {test.p_wilcoxon:.3f}")
        0.0275 0.010 0.125
    """
    changes = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    p_t = p_wilcoxon = low = high = deviation = float("nan")
    if len(changes) > 1 and np.ptp(changes) > 1e-12:  # beyond rounding
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
    values = np.asarray(list(chances), dtype=float)
    numbers = np.flatnonzero(~np.isnan(values))
    order = numbers[np.argsort(values[numbers], kind="stable")]
    corrected = values.copy()
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return corrected.tolist()


def trials_needed(deviation: float, effect: float, *, power: float = 0.8) -> int:
    """How many seeds a paired t-test at 5 % needs to find an effect.

    Args:
        deviation: standard deviation of the differences between two models over seeds.
        effect: mean difference to be found, in the same unit.
        power: probability of finding it.

    Returns:
        The number of seeds, from 2 to 10,000.

    Source: power of the t-test from the noncentral t distribution.

    Example:
        >>> trials_needed(deviation=2.0, effect=2.0), trials_needed(deviation=1.0, effect=2.0)
        (10, 5)
    """

    def reached(trials: int) -> bool:
        limit = stats.t.ppf(0.975, trials - 1)
        shift = effect / deviation * np.sqrt(trials)
        chance = stats.nct.sf(limit, trials - 1, shift) + stats.nct.cdf(-limit, trials - 1, shift)
        # Far out, where the power is 1, scipy's distribution has no number.
        return bool(np.isnan(chance) or chance >= power)

    few, many = 2, 10_000
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if reached(middle) else (middle + 1, many)
    return few


def compare(reference: str, scores: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """Compare one score of every setting with that of a reference, over the seeds of both.

    Args:
        reference: name of the setting that the others are compared with.
        scores: a score in [0, 1] by setting and seed.

    Returns:
        One row a setting that shares a seed with the reference: `seeds` (of both), the fields of
        :class:`PairedTest`, `p_holm` (Holm's correction of `p_t` for all rows) and `needed` (how
        many seeds find :data:`EFFECT`; NaN where the differences do not vary).

    Example:
        >>> table = compare("a", {"a": {1: 0.40, 2: 0.42}, "b": {1: 0.43, 2: 0.44}})
        >>> print(f"{table.loc['b', 'difference']:.3f} over {table.loc['b', 'seeds']:g} seeds")
        0.025 over 2 seeds
    """
    rows = {}
    for name, by_seed in scores.items():
        both = [seed for seed in scores[reference] if seed in by_seed]
        if name == reference or not both:
            continue
        test = paired_test(*([scores[one][seed] for seed in both] for one in (reference, name)))
        needed = trials_needed(test.deviation, EFFECT) if test.deviation > 0 else float("nan")
        rows[name] = {"seeds": len(both), **vars(test), "needed": needed}
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=["seeds", *PairedTest.__dataclass_fields__, "needed"]
    )
    return table.assign(p_holm=holm(table["p_t"]))


def weight_of(table: pd.DataFrame) -> str:
    """Say in a sentence what the seeds of a table of :func:`compare` can show.

    Example:
        >>> weight_of(compare("a", {"a": {1: 0.40}, "b": {1: 0.43}}))
        'The comparison rests on 1 seed, which proves nothing: another seed may turn the sign.'
    """
    few = int(table["seeds"].min()) if len(table) else 0
    seeds = f"The comparison rests on {few} seed{'s' * (few != 1)}"
    if few < 2:
        return f"{seeds}, which proves nothing: another seed may turn the sign."
    return f"{seeds}. The tests are paired by seed; without Holm's correction one in twenty errs."


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Bootstrap:
    """Interval of the difference of macro event-based F1 under another draw of the test clips.

    Clips are drawn with replacement, the same for both settings and for all their trials, whose
    scores are averaged; the interval holds the percentiles of the differences. It speaks of other
    clips, not of other trainings: for those there is :func:`compare`.

    Args:
        first: counts `(trials, clips, classes, 3)` of reference events, estimated events and true
            positives, as :meth:`scores.Scorer.event_counts` gives them for a trial.
        second: the same of the other setting, for the same clips; trials may be more or fewer.
        resamples: number of draws.
        seed: of the draws.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    both, clips = (first, second), first.shape[1]
    random = np.random.default_rng(seed)
    draws = np.concatenate(
        [
            _differences(both, _times_drawn(random, min(CHUNK, resamples - start), clips))
            for start in range(0, resamples, CHUNK)
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    return Bootstrap(float(_differences(both, np.ones((1, clips)))[0]), float(low), float(high))


def _times_drawn(random: np.random.Generator, draws: int, clips: int) -> np.ndarray:
    """How often each clip is drawn `(draws, clips)`."""
    drawn = random.integers(0, clips, (draws, clips)) + clips * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * clips).reshape(draws, clips).astype(float)


def _differences(both: Sequence[np.ndarray], times: np.ndarray) -> np.ndarray:
    """Differences `(draws,)` of macro F1; a class without a reference event in a draw is left out.

    Args:
        both: counts of the two settings.
        times: how often each clip is drawn `(draws, clips)`.
    """
    means = []
    for counts in both:
        by_clip = counts.transpose(1, 0, 2, 3).reshape(counts.shape[1], -1).astype(float)
        drawn = (times @ by_clip).reshape(-1, len(counts), *counts.shape[2:])
        n_ref, n_est, tp = np.moveaxis(drawn, -1, 0)
        f1 = (2 * tp / np.maximum(n_ref + n_est, 1)).mean(axis=1)
        known = n_ref[:, 0] > 0  # as in every trial
        means.append(np.where(known, f1, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1))
    return means[1] - means[0]
