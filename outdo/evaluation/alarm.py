"""Alarms that may be looked at after every batch: an e-detector (Shin, Ramdas and Rinaldo, 2203.03532).

The mean of numbers in [0, 1] is at most `m0` as long as all is well. Each batch multiplies bets that it is more into
Shiryaev-Roberts sums R, one for each size of bet; their average over bets is compared with horizon / alpha. R minus the number
of batches is a supermartingale, so the chance of any false alarm in `horizon` batches is at most alpha, whenever one looks.
Several detectors share one alpha by averaging their R (`alarmed`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

_BETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # of the largest bet that cannot lose all
_MOST = 1e280  # where R stops growing


@dataclass
class EDetector:
    """Watches one mean. `r` holds R for each size of bet."""

    m0: float
    r: list[float] = field(default_factory=lambda: [0.0] * len(_BETS))

    def update(self, batch: ArrayLike) -> float:
        """Take in a batch of numbers in [0, 1], in order of time -> the average R."""
        x = np.clip(np.asarray(batch, np.float64), 0.0, 1.0)
        if self.m0 >= 1.0 or len(x) == 0:  # nothing can exceed it
            return self.value
        for i, share in enumerate(_BETS):
            bet = share / max(self.m0, 1e-3)
            grown = np.log1p(bet * (x - self.m0)).sum() + math.log(self.r[i] + 1.0)
            self.r[i] = float(min(_MOST, math.exp(min(grown, 640.0))))
        return self.value

    @property
    def value(self) -> float:
        """The average R."""
        return float(np.mean(self.r))


def alarmed(detectors: Mapping[str, EDetector], alpha: float, horizon: int) -> str | None:
    """The name of the detector with the most evidence, if all together have enough for an alarm; else None."""
    if not detectors:
        return None
    mean = float(np.mean([d.value for d in detectors.values()]))
    return max(detectors, key=lambda k: detectors[k].value) if mean >= horizon / alpha else None


def upper_mean(values: Sequence[float], z: float = 1.959963984540054) -> float:
    """95 % upper end of a mean, by the normal approximation with at least a little spread."""
    x = np.asarray(values, np.float64)
    if len(x) == 0:
        return 1.0
    spread = max(float(x.std(ddof=1)) if len(x) > 1 else 0.5, 0.5 / len(x))
    return float(x.mean()) + z * spread / math.sqrt(len(x))
