"""How good forecasts were: skill over the last value and coverage of the bands, with intervals over stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from outdo.evaluation.stats import interval

Record = dict[str, Any]  # a forecast with its truth, see store.py
_DRAWS = 2000


@dataclass(frozen=True)
class Skill:
    """Example: 152 forecasts of 152 stages, rmse 0.066, of the last value 0.101, skill 0.35 (0.25, 0.43), coverage 0.98."""

    forecasts: int
    stages: int
    rmse: float
    rmse_last: float
    skill: tuple[float, float, float]
    coverage: dict[str, tuple[float, float, float]]  # "95", "80"


def skill(by_stage: Sequence[Sequence[Record]]) -> Skill:
    """1 - RMSE / RMSE of the last value, bootstrapped over stages, for one stage's forecasts share their truth.

    by_stage: forecasts of each stage with their truth; at least one in each.
    """
    own = np.array([np.sum([(r["value"] - r["truth"]) ** 2 for r in rs]) for rs in by_stage])
    last = np.array([np.sum([(r["last"] - r["truth"]) ** 2 for r in rs]) for rs in by_stage])
    count = sum(len(rs) for rs in by_stage)
    drawn = np.random.default_rng(0).integers(0, len(own), (_DRAWS, len(own)))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = 1.0 - np.sqrt(own[drawn].sum(1) / last[drawn].sum(1))
        value = float(1.0 - np.sqrt(own.sum() / last.sum())) if last.sum() else 0.0
    low, high = np.nanquantile(ratios, [0.025, 0.975]) if np.isfinite(ratios).any() else (0.0, 0.0)
    covered = {}
    for band in ("95", "80"):
        inside = [float(np.mean([r[f"ci{band}"][0] <= r["truth"] <= r[f"ci{band}"][1] for r in rs])) for rs in by_stage]
        covered[band] = interval(inside)[:3]
    return Skill(count, len(own), float(np.sqrt(own.sum() / count)), float(np.sqrt(last.sum() / count)),
                 (value, float(low), float(high)), covered)
