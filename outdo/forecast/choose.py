"""Which model: hold-out in compute. Models are fitted to the earlier part of a curve and scored on what came after.

The last value is kept until a model beats it: its hold-out error must be smaller by `MARGIN`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outdo.forecast.curve import Curve, Floats
from outdo.forecast.models import BASELINE, MODELS, Model, predict

ORIGINS = (0.5, 0.6, 0.7, 0.8)  # shares of the compute so far
MARGIN = 0.2  # the last value's hold-out error must be beaten by this share
_FITTED = 4  # points that a hold-out fit needs at least


@dataclass(frozen=True)
class HoldOut:
    """errors: per model and origin, predicted minus seen, at the later points. name: the model that won."""

    errors: dict[str, list[Floats]]
    name: str

    def rmse(self, name: str) -> float:
        """Over origins, each counting the same; NaN without any."""
        found = self.errors[name]
        return float(np.sqrt(np.mean([np.mean(e**2) for e in found]))) if found else float("nan")

    def skill(self, name: str) -> float:
        """1 - RMSE / RMSE of the last value; 0 without a hold-out."""
        base = self.rmse(BASELINE.name)
        return 1.0 - self.rmse(name) / base if base > 0 else 0.0

    @property
    def model(self) -> Model:
        """The one that won."""
        return next(m for m in MODELS if m.name == self.name)


def hold_out(curve: Curve, at: float) -> HoldOut:
    """Every model at every origin, as far ahead in proportion as the forecast at compute `at` looks."""
    c = curve.compute
    errors: dict[str, list[Floats]] = {m.name: [] for m in MODELS}
    ratio = max(at / c[-1], 1.1)
    for n in dict.fromkeys(int((c <= share * c[-1]).sum()) for share in ORIGINS):
        if not _FITTED <= n < len(c):
            continue
        later = np.flatnonzero((np.arange(len(c)) >= n) & (c <= max(ratio * c[n - 1], c[n])))
        for m in MODELS:
            errors[m.name].append(predict(m, curve.only(slice(0, n)), c[later]) - curve.score[later])
    found = HoldOut(errors, BASELINE.name)
    best = max(errors, key=found.skill)
    return HoldOut(errors, best) if found.skill(best) > MARGIN else found
