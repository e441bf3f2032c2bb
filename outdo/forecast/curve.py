"""A curve: the score at increasing compute, with its noise. Curves come from run folders (`store.py`) or from a CSV file."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outdo.errors import UserError, check

Floats = NDArray[np.float64]
LEAST = 6  # points that a forecast needs
MOST = 20  # longer curves are averaged to so many points


@dataclass(frozen=True)
class Curve:
    """compute [N] increases strictly; score [N]; se [N]: standard error of each score, 0 where unknown.

    low, high: bounds of the score, infinite where unknown. Example: share of games won at 2e12 FLOPs: 0.43 with se 0.02.
    """

    compute: Floats
    score: Floats
    se: Floats
    low: float = -np.inf
    high: float = np.inf

    def __len__(self) -> int:
        return len(self.compute)

    def until(self, compute: float) -> Curve:
        """The points up to there."""
        return self.only(self.compute <= compute)

    def only(self, which: NDArray[np.bool_] | slice) -> Curve:
        """Some of the points."""
        return replace(self, compute=self.compute[which], score=self.score[which], se=self.se[which])


def make(compute: list[float], score: list[float], se: list[float] | None = None, what: str = "the curve",
         low: float = -np.inf, high: float = np.inf) -> Curve:
    """A checked curve. Raises UserError for too few points, numbers that are not finite, compute that does not increase."""
    c, y = np.asarray(compute, np.float64), np.asarray(score, np.float64)
    s = np.zeros(len(y)) if se is None else np.asarray(se, np.float64)
    check(len(c) >= LEAST, f"{what} has {len(c)} points; a forecast needs at least {LEAST}")
    for name, values in (("compute", c), ("score", y), ("se", s)):
        bad = np.flatnonzero(~np.isfinite(values))
        check(not len(bad), f"{what}, point {bad[0] + 1 if len(bad) else 0}: {name} is not a finite number; drop the point")
    back = np.flatnonzero(np.diff(c) <= 0)
    check(not len(back), f"{what}, point {back[0] + 2 if len(back) else 0}: compute does not increase; sort the points and "
          "average those of equal compute")
    check(bool((s >= 0).all()), f"{what}: a standard error is negative")
    check(c[0] >= 0, f"{what}: compute is negative")
    return Curve(c, y, s, low, high)


def coarse(curve: Curve, most: int = MOST) -> Curve:
    """A long curve averaged over equal numbers of points, each with the standard error of its mean; short ones as they are."""
    if len(curve) <= most:
        return curve
    parts = np.array_split(np.arange(len(curve)), most)
    noise = np.diff(curve.score).std() / math.sqrt(2)  # of one point: what a smooth curve under it does not explain
    return replace(curve, compute=np.array([curve.compute[p].mean() for p in parts]),
                   score=np.array([curve.score[p].mean() for p in parts]),
                   se=np.array([max(noise, float(curve.se[p].mean())) / math.sqrt(len(p)) for p in parts]))


def read_csv(path: Path, low: float = -np.inf, high: float = np.inf) -> Curve:
    """Columns compute and score, optionally se; others are ignored. Raises UserError."""
    check(path.is_file(), f"{str(path)!r} does not exist")
    with path.open(encoding="utf-8-sig", newline="") as f:
        try:
            reader = csv.DictReader(f)
            rows, names = list(reader), list(reader.fieldnames or [])
        except (csv.Error, UnicodeDecodeError) as e:
            raise UserError(f"{path} is no CSV file in UTF-8 ({e})") from None
    missing = [n for n in ("compute", "score") if n not in names]
    check(not missing, f"{path}: column {' and '.join(missing)} missing; there is {', '.join(names) or 'nothing'}")

    def column(name: str) -> list[float]:
        return [_number(row[name], f"{path}, row {i}, {name}") for i, row in enumerate(rows, 1)]

    return make(column("compute"), column("score"), column("se") if "se" in names else None, str(path), low, high)


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None
    check(math.isfinite(value), f"{where}: {text!r} is not a finite number; drop the row")
    return value
