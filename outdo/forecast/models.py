"""The models of a curve. Each fits many curves over the same compute at once, so that a bootstrap costs little more than a fit.

    last        the last score                                        the baseline
    drift       the last score, and on at the mean slope so far, which falls off as 1 / C^2: from C to 2 C half the gain so far
    log_linear  a + b log(C + C_1)
    sigmoid     R_0 + (A - R_0) / (1 + (C_mid / C)^B)                 ScaleRL, 2510.13786
    power       A - D (C + C_0)^-B

The last three are linear in two parameters once their shape is given. Shapes are tried on a grid; the two parameters are least
squares in closed form. Compute is measured in units of the last point's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outdo.forecast.curve import Curve, Floats

Predict = Callable[[Floats], Floats]  # compute [M] -> scores [D, M]


class Last:
    """The score stays as it is."""

    name = "last"

    def fit(self, compute_N: Floats, scores_DN: Floats) -> Predict:
        """Scores [D, N] of D curves."""
        del compute_N
        return lambda at: np.repeat(scores_DN[:, -1:], len(at), 1)


class Drift:
    """The last score, and on at the mean slope so far, damped. An undamped one overshoots: most curves bend."""

    name = "drift"

    def fit(self, compute_N: Floats, scores_DN: Floats) -> Predict:
        """Scores [D, N] of D curves."""
        c, end = compute_N - compute_N.mean(), compute_N[-1]
        slope = scores_DN @ c / (c @ c)
        return lambda at: scores_DN[:, -1:] + slope[:, None] * end * (1.0 - end / at)


@dataclass(frozen=True)
class Fitted:
    """Least squares of a + b f over all shapes f of a grid [K]; the best shape for each curve is `best` [D]."""

    a_KD: Floats
    b_KD: Floats
    error_KD: Floats  # sums of squares

    @property
    def best(self) -> NDArray[np.intp]:
        """The shape of each curve."""
        return np.asarray(self.error_KD.argmin(0))


class Shapes:
    """A family a + b f(compute; shape)."""

    name = ""

    def shapes(self, u: Floats, first: float) -> Floats:
        """f [K, M] of compute u [M], in units of the last point's; first: the first compute above 0."""
        raise NotImplementedError

    def solve(self, compute_N: Floats, scores_DN: Floats) -> Fitted:
        """All shapes, each with its best a and b."""
        f = self.shapes(compute_N / compute_N[-1], first(compute_N))
        centred, mean = f - f.mean(1, keepdims=True), scores_DN.mean(1)
        spread = np.maximum((centred**2).sum(1), 1e-12)
        b = centred @ (scores_DN - mean[:, None]).T / spread[:, None]
        error = ((scores_DN - mean[:, None]) ** 2).sum(1) - b**2 * spread[:, None]
        return Fitted(mean - b * f.mean(1)[:, None], b, np.maximum(error, 0.0))

    def fit(self, compute_N: Floats, scores_DN: Floats) -> Predict:
        """Scores [D, N] of D curves."""
        found, each = self.solve(compute_N, scores_DN), np.arange(len(scores_DN))
        k, unit, start = found.best, compute_N[-1], first(compute_N)

        def predict(at: Floats) -> Floats:
            return found.a_KD[k, each][:, None] + found.b_KD[k, each][:, None] * self.shapes(at / unit, start)[k]

        return predict


class LogLinear(Shapes):
    """So much more for each decade of compute."""

    name = "log_linear"

    def shapes(self, u: Floats, first: float) -> Floats:
        """One: log(C + C_1)."""
        return np.asarray(np.log(u + first)[None])


class Sigmoid(Shapes):
    """ScaleRL's: from R_0 = a to the ceiling A = a + b, half way at C_mid.

    A forecast looks for C_mid up to the last point: of one beyond it the curve says too little, and fits overshoot.
    """

    name = "sigmoid"
    def __init__(self, latest: float = 1.0, steepness: tuple[float, ...] = (0.7, 1.0, 1.5, 2.0, 3.0)) -> None:
        self.steepness = np.array(steepness)
        self.middles = np.geomspace(0.05, latest, 1 + round(5 * np.log(latest / 0.05)))

    def shapes(self, u: Floats, first: float) -> Floats:
        """Middles times steepness."""
        del first
        with np.errstate(divide="ignore"):
            ratio = self.middles[:, None, None] / u
        return np.asarray(1.0 / (1.0 + ratio ** self.steepness[:, None])).reshape(-1, len(u))


class Power(Shapes):
    """The distance to a ceiling falls as a power of compute."""

    name = "power"
    shifts, exponents = np.geomspace(0.02, 1.0, 6), np.array([0.25, 0.5, 1.0, 2.0])

    def shapes(self, u: Floats, first: float) -> Floats:
        """Shifts times exponents."""
        del first
        return np.asarray(-((u + self.shifts[:, None, None]) ** -self.exponents[:, None])).reshape(-1, len(u))


Model = Last | Drift | Shapes
MODELS: tuple[Model, ...] = (Last(), Drift(), LogLinear(), Sigmoid(), Power())
BASELINE = MODELS[0]


def first(compute_N: Floats) -> float:
    """The first compute above 0, in units of the last."""
    return float(compute_N[compute_N > 0][0] / compute_N[-1])


def predict(model: Model, curve: Curve, at: Floats) -> Floats:
    """What a model fitted to the curve says at compute [M], within the score's bounds -> [M]."""
    return np.asarray(np.clip(model.fit(curve.compute, curve.score[None])(at)[0], curve.low, curve.high))
