"""The band of a forecast, and the ceiling where the curve shows one.

A band is made of draws. Each adds four things to the forecast: the model refitted to block-bootstrapped residuals, an error of
the size that the hold-out showed, the noise of one evaluation, and, rarely, a late collapse or a late jump.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outdo.evaluation.stats import wilson
from outdo.forecast.choose import HoldOut
from outdo.forecast.curve import Curve, Floats
from outdo.forecast.models import BASELINE, MODELS, Model, Shapes, Sigmoid, first, predict

DRAWS = 1000
# Of 158 curves of our own runs none lost half of its gain in its second half, and none jumped (docs/forecast.md); the band takes
# the upper end of the interval.
SEEN = {"collapse": (0, 158), "jump": (0, 158)}
_FREEDOM = 4.0  # of Student's t: a hold-out has four origins
_NEARLY = 2.0  # hold-out errors up to so many times the smallest
WIDER = 1.4  # set on development curves (docs/forecast.md)
_PROFILE = 3.84  # 95 % of chi-squared with one degree of freedom


@dataclass(frozen=True)
class Band:
    """Intervals of the score that will be seen. Example: ci80 (0.55, 0.66), ci95 (0.50, 0.71)."""

    ci80: tuple[float, float]
    ci95: tuple[float, float]


def band(curve: Curve, chosen: HoldOut, at: float, noise: float, seed: int = 0) -> Band:
    """noise: standard error of the score that will be seen at compute `at`, beyond what the curve's own scatter shows."""
    rng = np.random.default_rng(seed)
    draws = _refitted(curve, chosen.model, at, rng)
    draws = draws + WIDER * _error(curve, chosen, at) * rng.standard_t(_FREEDOM, DRAWS)
    draws = draws + noise * rng.normal(0.0, 1.0, DRAWS)
    draws = np.clip(_events(draws, curve, rng), curve.low, curve.high)
    low, lower, upper, high = np.quantile(draws, [0.025, 0.1, 0.9, 0.975])
    return Band((float(lower), float(upper)), (float(low), float(high)))


def _error(curve: Curve, chosen: HoldOut, at: float) -> float:
    """What the hold-out and the models among themselves say of the size of an error.

    The chosen model was chosen for its small error, which is therefore too small: its geometric mean with the last value's is
    taken. To that comes how far the models that held out nearly as well are from it.
    """
    own = chosen.rmse(chosen.name)
    if not np.isfinite(own):
        return float(curve.score.std())
    where, best = np.array([at]), min(chosen.rmse(m.name) for m in MODELS)
    value = predict(chosen.model, curve, where)[0]
    apart = [predict(m, curve, where)[0] - value for m in MODELS if chosen.rmse(m.name) <= _NEARLY * best]
    spread = float(np.mean(np.square([*apart, 0.0])))
    return float(np.sqrt(own * chosen.rmse(BASELINE.name) + spread))


def _refitted(curve: Curve, model: Model, at: float, rng: np.random.Generator) -> Floats:
    """Forecasts of the model fitted to curves whose residuals are drawn in blocks, for they are correlated -> [DRAWS]."""
    c, y = curve.compute, curve.score
    if model is BASELINE:  # its errors are all in the hold-out
        return np.full(DRAWS, y[-1])
    fits = isinstance(model, Shapes)  # a drift goes through the last point: its residuals are the steps between neighbours
    smooth = model.fit(c, y[None])(c)[0] if fits else y
    residuals = y - smooth if fits else np.diff(y, prepend=y[0]) / np.sqrt(2.0)
    residuals = residuals - residuals.mean()
    size = max(1, round(len(y) ** (1 / 3)))
    starts = rng.integers(0, len(y), (DRAWS, -(-len(y) // size)))
    picked = (starts[:, :, None] + np.arange(size)).reshape(DRAWS, -1)[:, : len(y)] % len(y)
    return np.asarray(model.fit(c, smooth + residuals[picked])(np.array([at]))[:, 0])


def _events(draws: Floats, curve: Curve, rng: np.random.Generator) -> Floats:
    """Some draws collapse to somewhere between the first score and theirs, some jump by up to what was gained so far."""
    chance, start = rng.uniform(size=len(draws)), float(curve.score[0])
    depth, gain = rng.uniform(size=len(draws)), float(np.ptp(curve.score))
    collapse, jump = (wilson(*SEEN[what])[1] for what in ("collapse", "jump"))
    fallen = np.where(chance < collapse, draws - depth * (draws - start), draws)
    return np.where(chance > 1.0 - jump, draws + depth * gain, fallen)


def ceiling(curve: Curve) -> tuple[float, float, float] | None:
    """The sigmoid's A with its 95 % profile interval; None unless that is bounded and the run is past the midpoint C_mid.

    Residuals are taken to be correlated as their neighbours are: a chain of them says less than as many apart.
    """
    sigmoid = Sigmoid(latest=4.0)
    found = sigmoid.solve(curve.compute, curve.score[None])
    k, n = int(found.best[0]), len(curve)
    if sigmoid.middles[k // len(sigmoid.steepness)] >= 1.0 or found.b_KD[k, 0] <= 0 or n < 8:
        return None
    f = sigmoid.shapes(curve.compute / curve.compute[-1], first(curve.compute))
    residuals = curve.score - found.a_KD[k, 0] - found.b_KD[k, 0] * f[k]
    near = float(np.clip(residuals[1:] @ residuals[:-1] / max(residuals @ residuals, 1e-300), 0.0, 0.9))
    variance = max(float(found.error_KD[k, 0]), 1e-12) / (n - 4) * (1 + near) / (1 - near)
    best, span = float(found.a_KD[k, 0] + found.b_KD[k, 0]), float(np.ptp(curve.score))
    top = min(curve.high, curve.score.max() + 2.0 * span)
    tried = np.linspace(curve.score.max() - span, top, 400)
    # Residual y - R_0 (1 - f) - A f with the best R_0, for every A and shape.
    rest, left = 1.0 - f, curve.score - tried[:, None, None] * f
    r0 = (left * rest).sum(2) / np.maximum((rest**2).sum(1), 1e-12)
    errors = ((left - r0[:, :, None] * rest) ** 2).sum(2).min(1)
    inside = tried[errors - found.error_KD[k, 0] <= _PROFILE * variance]
    if not len(inside) or inside[-1] >= tried[-2] or not inside[0] <= best <= inside[-1]:
        return None
    return best, float(inside[0]), float(inside[-1])
