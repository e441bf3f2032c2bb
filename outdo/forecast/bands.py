"""The band of a forecast, and the ceiling where the curve shows one.

A band is made of draws. Each adds four things to the forecast: the model refitted to block-bootstrapped residuals, an error of
the size that the hold-out showed, the noise of one evaluation, and, rarely, a late collapse or a late jump.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from outdo.forecast.choose import HoldOut
from outdo.forecast.curve import Curve, Floats
from outdo.forecast.events import OWN, Events
from outdo.forecast.models import BASELINE, MODELS, Model, Power, Shapes, Sigmoid, first, predict

DRAWS = 1000
_FREEDOM = 4.0  # of Student's t: a hold-out has four origins
_NEARLY = 2.0  # hold-out errors up to so many times the smallest
_CAREFUL = 2.0  # a plain profile interval held the ceiling too rarely: correlation is underestimated in short curves


@dataclass(frozen=True)
class Band:
    """Intervals of the score that will be seen. Example: ci80 (0.55, 0.66), ci95 (0.50, 0.71)."""

    ci80: tuple[float, float]
    ci95: tuple[float, float]


def band(curve: Curve, chosen: HoldOut, at: float, noise: float, events: Events = OWN, seed: int = 0) -> Band:
    """noise: standard error of the score that will be seen at compute `at`, beyond what the curve's own scatter shows."""
    rng = np.random.default_rng(seed)
    draws = _refitted(curve, chosen.model, at, rng)
    draws = draws + _error(curve, chosen, at) * rng.standard_t(_FREEDOM, DRAWS)
    draws = draws + noise * rng.normal(0.0, 1.0, DRAWS)
    draws = np.clip(_late(draws, curve, events, rng), curve.low, curve.high)
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


def _late(draws: Floats, curve: Curve, events: Events, rng: np.random.Generator) -> Floats:
    """Some draws collapse to somewhere between the first score and theirs, some jump by up to twice the range so far."""
    chance, size = rng.uniform(size=len(draws)), rng.uniform(size=len(draws))
    fallen = np.where(chance < events.chance(events.collapses), draws - size * (draws - curve.score[0]), draws)
    return np.where(chance > 1.0 - events.chance(events.jumps), draws + 2.0 * size * np.ptp(curve.score), fallen)


def ceiling(curve: Curve) -> tuple[float, float, float] | None:
    """The sigmoid's A with its 95 % profile interval; None unless that is bounded and the run is past the midpoint C_mid.

    For every A the best curve towards it is sought, a sigmoid or a power law: what lies beyond the last point depends on the
    shape. Residuals are taken to be correlated as neighbours are: a chain of them says less than as many apart.
    """
    y, n = curve.score, len(curve)
    sigmoid = Sigmoid(latest=4.0, steepness=(0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0))
    found = sigmoid.solve(curve.compute, y[None])
    k = int(found.best[0])
    if sigmoid.middles[k // len(sigmoid.steepness)] >= 1.0 or found.b_KD[k, 0] <= 0 or n < 8:
        return None
    u, start = curve.compute / curve.compute[-1], first(curve.compute)
    f = sigmoid.shapes(u, start)
    left = y - found.a_KD[k, 0] - found.b_KD[k, 0] * f[k]
    near = float(np.clip(left[1:] @ left[:-1] / max(left @ left, 1e-300), 0.0, 0.9))
    variance = max(float(left @ left), 1e-12) / (n - 4) * (1 + near) / (1 - near)
    span = float(np.ptp(y))
    tried = np.linspace(y.max() - span, min(curve.high, y.max() + 2.0 * span), 400)
    missing = np.concatenate([1.0 - f, -Power().shapes(u, start)])  # y = A - b missing
    apart = tried[:, None] - y
    errors = (apart**2).sum(1)[:, None] - np.maximum(apart @ missing.T, 0.0) ** 2 / (missing**2).sum(1)
    profile = errors.min(1)
    inside = tried[profile - profile.min() <= _CAREFUL * float(t.ppf(0.975, n - 4)) ** 2 * variance]
    best = float(found.a_KD[k, 0] + found.b_KD[k, 0])
    if inside[-1] >= tried[-2] or not inside[0] <= best <= inside[-1]:
        return None
    return best, float(inside[0]), float(inside[-1])
