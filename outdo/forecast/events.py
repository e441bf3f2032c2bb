"""Late collapses and late jumps: what no fit to an earlier part can know. Their chance is counted on finished curves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from outdo.forecast.curve import Curve

_PARTS = 10
_LOST, _STEP = 0.5, 0.3  # of the gain so far; of the whole range, from one tenth of the points to the next
_CLEAR = 4.0  # standard errors


@dataclass(frozen=True)
class Events:
    """How many of `curves` collapsed or jumped in their second half."""

    collapses: int
    jumps: int
    curves: int

    def chance(self, count: int) -> float:
        """Of one kind in the next curve: the mean of Jeffreys' posterior."""
        return (count + 0.5) / (self.curves + 1.0)


# Our own runs: `outdo forecasts --half --curve reward`, see docs/forecast.md.
OWN = Events(0, 1, 157)


def late(curve: Curve) -> str:
    """What the second half holds: a collapse (half of the best gain is lost), a jump (a step of 0.3 of the range), or ""."""
    if len(curve) < _PARTS:
        return ""
    parts = np.array_split(curve.score, _PARTS)
    q = np.array([p.mean() for p in parts])
    error = np.diff(curve.score).std() / np.sqrt(2.0 * len(parts[-1]))
    half = _PARTS // 2
    gain, steps = q.max() - q[0], np.diff(q)
    if gain > _CLEAR * error and q[:half].max() - q[0] > _LOST * gain and q.max() - q[-1] > max(_LOST * gain, _CLEAR * error):
        return "collapse"
    return "jump" if steps[half - 1 :].max() > max(_STEP * np.ptp(q), _CLEAR * 2.0**0.5 * error) else ""


def count(curves: Iterable[Curve]) -> Events:
    """Over finished curves."""
    kinds = [late(c) for c in curves]
    return Events(kinds.count("collapse"), kinds.count("jump"), len(kinds))
