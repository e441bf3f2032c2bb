"""Did optimising the proxy go too far? Gold against d, the square root of the sequence-level KL from the start (2210.10760).

R(d) = d (alpha - beta log d), least squares on [d, -d log d]. Overoptimised only if the peak lies inside what was tried and the
5 % bootstrap bound of the fall from it exceeds 0.02; a truth that merely saturates makes beta > 0 look certain, and is not
called so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FALL = 0.02


@dataclass(frozen=True)
class Fit:
    """The fitted peak, and whether gold fell from it."""

    alpha: float
    beta: float
    d_peak: float
    r_peak: float
    fall_bound: float  # 5 % bootstrap bound of R(peak) - R(last)
    declined: bool
    saturating_better: bool  # by AICc, a curve that only levels off

    @property
    def said(self) -> str:
        """One sentence."""
        if self.declined:
            return f"gold fell from its peak at d = {self.d_peak:.2f} by at least {self.fall_bound:.2f}"
        return "no decline within the tested range"


def fit(d: ArrayLike, r: ArrayLike, se: ArrayLike, draws: int = 1000, seed: int = 0) -> Fit | None:
    """d [n] > 0, r [n] gold relative to the start, se [n] its standard errors. None with fewer than four points."""
    x, y, s = (np.asarray(v, np.float64) for v in (d, r, se))
    known = (x > 1e-6) & np.isfinite(y)
    x, y, s = x[known], y[known], s[known]
    if len(x) < 4:
        return None
    alpha, beta = _line(x, y)
    peak = math.exp(min(50.0, alpha / beta - 1)) if beta > 1e-9 else math.inf
    rng, falls = np.random.default_rng(seed), []
    for _ in range(draws):
        noisy = y + rng.normal(0, 1, len(y)) * s
        a, b = _line(x, noisy)
        at = math.exp(min(50.0, a / b - 1)) if b > 1e-9 else math.inf
        falls.append(b * at - _value(x[-1], a, b) if x[0] <= at <= x[-1] else 0.0)
    bound = float(np.quantile(falls, 0.05))
    own = _aicc(y - np.array([_value(v, alpha, beta) for v in x]), 2)
    return Fit(alpha, beta, peak, beta * peak if math.isfinite(peak) else math.inf, bound,
               bool(bound > FALL and x[0] <= peak <= x[-1]), _saturating(x, y) < own)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    a = np.stack([x, -x * np.log(x)], 1)
    alpha, beta = np.linalg.lstsq(a, y, rcond=None)[0]
    return float(alpha), float(beta)


def _value(d: float, alpha: float, beta: float) -> float:
    return d * (alpha - beta * math.log(d))


def _aicc(residuals: NDArray[np.float64], k: int) -> float:
    n = len(residuals)
    return n * math.log(max(float((residuals**2).mean()), 1e-12)) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else 1e9)


def _saturating(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """AICc of a (1 - exp(-d / c)) with the best c of a grid."""
    best = math.inf
    for c in np.geomspace(x.max() / 20, x.max() * 5, 40):
        f = 1 - np.exp(-x / c)
        a = float((f * y).sum() / max((f * f).sum(), 1e-12))
        best = min(best, _aicc(y - a * f, 2))
    return best
