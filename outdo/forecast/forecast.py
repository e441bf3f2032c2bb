"""A forecast of one curve: which model, what it says, its bands, its ceiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from outdo.forecast import bands
from outdo.forecast.choose import HoldOut, hold_out
from outdo.forecast.curve import Curve, coarse
from outdo.forecast.events import OWN, Events
from outdo.forecast.models import BASELINE, MODELS, predict


@dataclass(frozen=True)
class Forecast:
    """of: the curve as it was used. Example: sigmoid says 0.61 at 3e12 FLOPs, 95 % band (0.50, 0.71); last value 0.48."""

    of: Curve
    at: float
    held: HoldOut
    value: float
    band: bands.Band
    ceiling: tuple[float, float, float] | None  # A and its 95 % interval

    @property
    def last(self) -> float:
        """The baseline's forecast."""
        return float(self.of.score[-1])

    def says(self) -> dict[str, float]:
        """What each model says at the compute that is asked about."""
        return {m.name: float(predict(m, self.of, np.array([self.at]))[0]) for m in MODELS}

    def record(self) -> dict[str, Any]:
        """For a file."""
        return {"flops": float(self.of.compute[-1]), "at": float(self.at), "points": len(self.of), "model": self.held.name,
                "value": self.value, "ci80": self.band.ci80, "ci95": self.band.ci95, "last": self.last,
                "skill": self.held.skill(self.held.name), "ceiling": self.ceiling}

    def verdict(self) -> str:
        """One sentence."""
        if self.held.name == BASELINE.name:
            return "no skill over the last value: no model was better by enough on the held-out part, so it is the forecast"
        return (f"{self.held.name} was {self.held.skill(self.held.name):.0%} better than the last value on the held-out part of "
                "the curve")


def forecast(curve: Curve, at: float, noise: float | None = None, events: Events = OWN) -> Forecast:
    """The score at compute `at`, beyond the curve's last. noise: standard error of what will be seen there (None: as the last's,
    or as neighbours differ)."""
    used = coarse(curve)
    held = hold_out(used, at)
    value = float(predict(held.model, used, np.array([at]))[0])
    seen = noise if noise is not None else float(used.se[-1]) or float(np.diff(used.score).std() / np.sqrt(2.0))
    return Forecast(used, at, held, value, bands.band(used, held, at, seen, events), bands.ceiling(used))
