"""How well a judge agrees with gold, and what can be said of it with few labels.

Pairs of the same answer with and without a treatment are held against each other (McNemar), families of tests share one level
(Holm), discrimination is measured within prompts: a judge that only knows which prompts are hard has no use in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from outdo.evaluation.stats import wilson

Floats = NDArray[np.float64]


def mcnemar(up: int, down: int) -> float:
    """Exact one-sided p of at least `up` flips to accepted among up + down flips, each way being as likely."""
    n = up + down
    return sum(math.comb(n, k) for k in range(up, n + 1)) / 2**n if n else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of a family of tests (Holm, 1979)."""
    out, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        out[i] = worst
    return out


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, of n prompts or cases."""

    value: float
    low: float
    high: float
    n: int


def auc(good: ArrayLike, bad: ArrayLike) -> float:
    """Chance that a right answer scores above a wrong one, ties count half."""
    x, y = np.asarray(good, np.float64), np.asarray(bad, np.float64)
    return float(((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean())


def within_auc(scores: ArrayLike, right: ArrayLike, prompts: ArrayLike, draws: int = 1000, seed: int = 0) -> Estimate:
    """Mean over prompts with right and wrong answers of the AUC among their answers; bootstrap over prompts. NaN without any."""
    s, r, p = np.asarray(scores, np.float64), np.asarray(right, bool), np.asarray(prompts)
    each = [auc(s[(p == k) & r], s[(p == k) & ~r]) for k in np.unique(p) if r[p == k].any() and not r[p == k].all()]
    return _of_means(each, draws, seed)


def _of_means(each: Sequence[float], draws: int, seed: int) -> Estimate:
    x = np.array(each, np.float64)
    if not len(x):
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    low, high = np.quantile(x[rng.integers(0, len(x), (draws, len(x)))].mean(1), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high), len(x))


@dataclass(frozen=True)
class Errors:
    """A judge's yes and no against gold."""

    sensitivity: Estimate  # right answers accepted
    specificity: Estimate  # wrong answers refused
    youden: Estimate  # sensitivity + specificity - 1: the share of a reward's difference that is left; 0: none
    kappa: float  # Cohen's, falls with prevalence
    ac1: float  # Gwet's, does not

    def precision(self, rate: float) -> float:
        """Share of accepted answers that are right where `rate` of all are."""
        yes = self.sensitivity.value * rate
        wrong = (1 - self.specificity.value) * (1 - rate)
        return yes / (yes + wrong) if yes + wrong else 0.0


def errors(accepted: ArrayLike, right: ArrayLike, prompts: ArrayLike, draws: int = 1000, seed: int = 0) -> Errors:
    """See `Errors`; Youden's interval by a bootstrap over prompts."""
    a, r, p = np.asarray(accepted, bool), np.asarray(right, bool), np.asarray(prompts)
    rng, names = np.random.default_rng(seed), np.unique(p)
    where = [np.flatnonzero(p == k) for k in names]
    js = []
    for _ in range(draws):
        i = np.concatenate([where[k] for k in rng.integers(0, len(names), len(names))])
        if r[i].any() and not r[i].all():
            js.append(a[i][r[i]].mean() - a[i][~r[i]].mean())
    j = a[r].mean() - a[~r].mean()
    low, high = np.quantile(js, [0.025, 0.975]) if js else (math.nan, math.nan)
    agree, yes, prevalence = (a == r).mean(), a.mean(), r.mean()
    chance = yes * prevalence + (1 - yes) * (1 - prevalence)
    mean = (yes + prevalence) / 2
    gwet = 2 * mean * (1 - mean)
    sides = [Estimate(float(x.mean()), *wilson(int(x.sum()), len(x)), len(x)) for x in (a[r], ~a[~r])]
    kappa = float((agree - chance) / (1 - chance)) if chance < 1 else 1.0
    ac1 = float((agree - gwet) / (1 - gwet)) if gwet < 1 else 1.0
    return Errors(sides[0], sides[1], Estimate(float(j), float(low), float(high), len(names)), kappa, ac1)


@dataclass(frozen=True)
class Calibration:
    """Of probabilities against 0/1 outcomes. Slope 1 and intercept 0 are perfect; a slope below 1 is overconfident."""

    brier: float
    slope: float
    intercept: float
    ece: float  # expected calibration error in ten bins
    ece_null: float  # 95 % quantile of what a perfectly calibrated judge would show at this n
    n: int


def calibration(probabilities: ArrayLike, right: ArrayLike, seed: int = 0) -> Calibration:
    """See `Calibration`; slope and intercept by logistic regression on the logit."""
    p, y = np.clip(np.asarray(probabilities, np.float64), 1e-4, 1 - 1e-4), np.asarray(right, np.float64)
    rng = np.random.default_rng(seed)
    null = [_ece(p, (rng.random(len(p)) < p).astype(np.float64)) for _ in range(500)]
    x = np.log(p / (1 - p))

    def loss(b: Floats) -> float:  # with a little ridge so that separable data end
        z = np.clip(b[0] * x + b[1], -500, 500)
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5e-3 * ((b[0] - 1) ** 2 + b[1] ** 2))

    b = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}).x
    return Calibration(float(((p - y) ** 2).mean()), float(b[0]), float(b[1]), _ece(p, y), float(np.quantile(null, 0.95)), len(p))


def _ece(p: Floats, y: Floats) -> float:
    bins = np.minimum((p * 10).astype(int), 9)
    return float(sum(abs(p[bins == k].mean() - y[bins == k].mean()) * (bins == k).mean() for k in range(10) if (bins == k).any()))


def best_of_n(chosen_by_PN: ArrayLike, values_PN: ArrayLike, sizes: Sequence[int],
              seed: int = 0) -> list[tuple[int, Estimate, Estimate]]:
    """For each n: gold of the answer that the judge likes best of n, and of the truly best of n; bootstrap over prompts."""
    from outdo.evaluation.stats import best_of_k

    out = []
    for n in sizes:
        chosen, oracle = (best_of_k(by, values_PN, n) for by in (chosen_by_PN, values_PN))
        out.append((n, _of_means([float(x) for x in chosen], 1000, seed), _of_means([float(x) for x in oracle], 1000, seed)))
    return out


def corrected_rate(accepted_rate: float, e: Errors) -> float | None:
    """Share of right answers behind a judge's acceptance rate (Rogan and Gladen, 1978); None where J may be 0."""
    if not e.youden.low > 0:
        return None
    return min(1.0, max(0.0, (accepted_rate + e.specificity.value - 1) / e.youden.value))


def pairs_needed(effect: float, family: int = 1, alpha: float = 0.05, power: float = 0.8) -> int:
    """Matched pairs for McNemar to see that `effect` of the answers flip to accepted and none back, in a family of tests."""
    for n in range(5, 100_000):
        need = next(k for k in range(1, 80) if 2 * 0.5**k < alpha / family)
        if 1 - sum(math.comb(n, k) * effect**k * (1 - effect) ** (n - k) for k in range(need)) >= power:
            return n
    return 100_000


def labels_needed(rate: float, margin: float) -> int:
    """Labels for a 95 % interval of that half-width around a rate."""
    return math.ceil(1.96**2 * rate * (1 - rate) / margin**2)
