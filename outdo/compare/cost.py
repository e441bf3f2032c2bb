"""What the same score costs by two roads: budgets read off learning curves, censored where a curve never gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdo.compare.evidence import Point

AXES: dict[str, Callable[[Point], float]] = {"flops": lambda p: p.flops, "seconds": lambda p: p.seconds}


@dataclass(frozen=True)
class Ratio:
    """Budget of `other` over budget of `base` to reach `score`. None where a curve never reached it, or started there.

    reached: share of bootstrap draws in which the other curve reached the score.
    """

    score: float
    base_budget: float | None
    other_budget: float | None
    value: float | None
    ci95: tuple[float, float] | None
    reached: float


def budget_to_reach(budgets: Sequence[float], scores: Sequence[float], score: float) -> float | None:
    """Smallest budget at which the piecewise linear curve reaches score; None if it never does."""
    for i, (b, s) in enumerate(zip(budgets, scores, strict=True)):
        if s >= score:
            if i == 0 or scores[i - 1] >= s:
                return b
            share = (score - scores[i - 1]) / (s - scores[i - 1])
            return budgets[i - 1] + share * (b - budgets[i - 1])
    return None


def ratio(base: Sequence[Sequence[Point]], other: Sequence[Sequence[Point]], axis: str, draws: int = 500) -> Ratio:
    """What `other` pays for the best score of `base`, relative to base. base, other: one curve per seed.

    Each curve is the mean over seeds at its k-th evaluation. The interval bootstraps seeds, then items, the same items on
    both curves.
    """
    b, o = _Curves.of(base, axis), _Curves.of(other, axis)
    point = _once(b, o, np.arange(b.items.shape[0]), np.arange(b.items.shape[2]))
    rng = np.random.default_rng(0)
    S, _, N = b.items.shape
    results = [_once(b, o, rng.integers(0, S, size=(S,)), rng.integers(0, N, size=(N,))) for _ in range(draws)]
    ratios = [r.value for r in results if r.value is not None]
    reached = float(np.mean([r.other_budget is not None for r in results]))
    interval = None
    if point.value is not None and len(ratios) > 0.9 * draws:
        low, high = np.quantile(ratios, [0.025, 0.975])
        interval = (float(low), float(high))
    return Ratio(point.score, point.base_budget, point.other_budget, point.value, interval, reached)


@dataclass(frozen=True)
class _Curves:
    budgets: NDArray[np.float64]  # [seeds, points]
    items: NDArray[np.float64]  # [seeds, points, items]

    @staticmethod
    def of(curves: Sequence[Sequence[Point]], axis: str) -> _Curves:
        length = min(len(c) for c in curves)
        budgets = np.array([[AXES[axis](p) for p in c[:length]] for c in curves])
        return _Curves(budgets, np.array([[p.items[0] for p in c[:length]] for c in curves]))


def _once(b: _Curves, o: _Curves, seeds: NDArray[np.int64], items: NDArray[np.int64]) -> Ratio:
    base = np.nanmean(b.items[seeds][:, :, items], axis=(0, 2))
    other = np.nanmean(o.items[seeds][:, :, items], axis=(0, 2))
    score = float(base.max())
    base_budget = budget_to_reach(list(b.budgets[seeds].mean(0)), list(base), score)
    other_budget = budget_to_reach(list(o.budgets[seeds].mean(0)), list(other), score)
    value = other_budget / base_budget if base_budget and other_budget is not None else None
    return Ratio(score, base_budget, other_budget, value, None, 0.0)
