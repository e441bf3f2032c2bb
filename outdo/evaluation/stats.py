"""Intervals and paired comparisons. No number leaves without n and a 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927): right also near 0 and 1, where p +- 2 se is not."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return 0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)


def mean_interval(values: ArrayLike) -> tuple[float, float, float, int]:
    """Mean, 95 % normal interval and n of the values that are not NaN; NaNs if there are none."""
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x)]
    if len(x) == 0:
        return float("nan"), float("nan"), float("nan"), 0
    half = _Z * float(x.std(ddof=1)) / sqrt(len(x)) if len(x) > 1 else float("inf")
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x)


def pass_at_k(scores_PK: ArrayLike, k: int) -> NDArray[np.float64]:
    """Chance that the best of k answers scores 1, without bias from the K >= k that were given (Chen et al., 2107.03374). [P]

    NaN for a prompt with fewer than k scored answers.
    """
    x = np.asarray(scores_PK, np.float64)
    n, right = (~np.isnan(x)).sum(1), (x == 1.0).sum(1)
    fail = np.ones(len(x))
    for i in range(k):  # the i-th answer drawn without replacement is a wrong one, too
        fail *= np.clip(n - right - i, 0, None) / np.maximum(n - i, 1)
    return np.where(n >= k, 1.0 - fail, np.nan)


@dataclass(frozen=True)
class Difference:
    """a - b on the same items. Example: value 0.62, ci95 (0.58, 0.66), n 1000 items, seeds 3."""

    value: float
    ci95: tuple[float, float]
    n: int
    seeds: int

    @property
    def verdict(self) -> str:
        """higher, lower or not distinguishable."""
        low, high = self.ci95
        return "higher" if low > 0 else "lower" if high < 0 else "not distinguishable"



def best_of_k(chosen_by_PK: ArrayLike, values_PK: ArrayLike, k: int) -> NDArray[np.float64]:
    """Mean value of the answer that a judge scores highest among k of the K answers to each prompt, over all choices of k. [P]

    chosen_by: the judge's scores, NaN where it gave none: such an answer is chosen only if none of the k has a score. Of equal
    scores each is as likely. NaN where a value is. The estimator is unbiased, as pass@k's is (2107.03374).
    """
    judged, values = np.asarray(chosen_by_PK, np.float64), np.asarray(values_PK, np.float64)
    P, K = values.shape
    order = np.argsort(np.where(np.isnan(judged), -np.inf, judged), axis=1, kind="stable")
    ranked = np.take_along_axis(np.where(np.isnan(judged), -np.inf, judged), order, 1)
    ordered = np.take_along_axis(values, order, 1)
    chance = np.array([math.comb(i, k - 1) for i in range(K)]) / math.comb(K, k)  # of the i-th being the best of k
    out = np.empty(P)
    for p in range(P):
        _, level = np.unique(ranked[p], return_inverse=True)
        means = np.bincount(level, ordered[p]) / np.bincount(level)  # of equal scores
        out[p] = (chance * means[level]).sum()
    return out


def auc_interval(good: ArrayLike, bad: ArrayLike, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Chance that a good answer scores above a bad one (ties count half), with a 95 % bootstrap interval over both."""
    x, y = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    above = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    rng = np.random.default_rng(seed)
    means = [above[rng.integers(0, len(x), len(x))][:, rng.integers(0, len(y), len(y))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(above.mean()), float(low), float(high)


def majority(said_PK: NDArray[np.str_], values_PK: ArrayLike) -> NDArray[np.float64]:
    """Mean value of the answer that is given most often to each prompt [P]; of answers given equally often the mean counts."""
    values, out = np.asarray(values_PK, np.float64), []
    for said, row in zip(said_PK, values, strict=True):
        _, which, count = np.unique(said, return_inverse=True, return_counts=True)
        means = np.bincount(which, row) / count
        out.append(means[count == count.max()].mean())
    return np.array(out, np.float64)


def paired_difference(a_SN: ArrayLike, b_SN: ArrayLike, draws: int = 2000, seed: int = 0) -> Difference:
    """Hierarchical bootstrap of mean(a - b): seeds are drawn, then items (the same items in every seed).

    Items that are NaN (unscored) in any seed are left out. Where all differences are the same a bootstrap would be certain of
    it, however few there are: then the interval is `_of_equal`'s.
    a, b: [seeds, items] or [items]; rows of one seed broadcast against many (a reference player has no training seed).
    """
    a, b = np.atleast_2d(np.asarray(a_SN, np.float64)), np.atleast_2d(np.asarray(b_SN, np.float64))
    d: NDArray[np.float64] = a - b
    d = d[:, ~np.isnan(d).any(0)]
    S, N = d.shape
    if N and d.min() == d.max():
        span = max(np.nanmax(a), np.nanmax(b), 1.0) - min(np.nanmin(a), np.nanmin(b), 0.0)  # shares differ by at most 1
        return Difference(float(d[0, 0]), _of_equal(float(d[0, 0]), float(span), N), N, S)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        rows = rng.integers(0, S, S) if S > 1 else np.zeros(1, int)
        means[i] = d[rows][:, rng.integers(0, N, N)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(d.mean()), (float(low), float(high)), N, S)


def _of_equal(value: float, span: float, n: int) -> tuple[float, float]:
    """95 % interval of a mean of n values that are all the same, in which others, at most span from 0, may have been missed.

    Their share is at most 1 - 0.025^(1/n) (Clopper and Pearson, 1934). For differences of shares this agrees with the sign test:
    five wins in five do not tell two players apart, six do.
    """
    missed = 1.0 - 0.025 ** (1.0 / n)
    middle, half = value * (1.0 - missed), span * missed
    return max(-span, middle - half), min(span, middle + half)


def interval(items: ArrayLike) -> tuple[float, float, float, int]:
    """Mean, 95 % interval and n of one score per prompt (NaN: not scored): the one interval of every score.

    Wilson's for scores of 0 and 1, a bootstrap over prompts for all others. NaNs if nothing was scored.
    """
    x = np.asarray(items, np.float64)
    x = x[~np.isnan(x)]
    if not len(x):
        return float("nan"), float("nan"), float("nan"), 0
    return float(x.mean()), *hierarchical_interval(x), len(x)


def hierarchical_interval(values_SN: ArrayLike, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over seeds and items; Wilson's over items for one seed of zeros and ones, or where all are
    the same number from 0 to 1: a bootstrap of nothing but zeros would be sure of zero."""
    x = np.atleast_2d(np.asarray(values_SN, np.float64))
    x = x[:, ~np.isnan(x).any(0)]
    if x.size and (x.min() == x.max() or (len(x) == 1 and np.isin(x, (0.0, 1.0)).all())) and x.min() >= 0.0 and x.max() <= 1.0:
        return wilson(float(x[0].sum()), x.shape[1])
    return paired_difference(x, np.zeros_like(x), draws, seed).ci95
