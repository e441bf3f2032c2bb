"""Matches: counts of paired games, what they say about strength (score, Elo) and a test that may stop early (GSPRT).

A pair is two games from one start. If a task has two sides, A and B swap them. If it has one side for the policy, A and B both
play that side against the same opponent, and what B scores counts against A. Either way A has the points a of the first game and
1 - b of the second, so that a pair is worth 0, 1/2, 1, 3/2 or 2 points to A: the five counts of a pentanomial. Games of one pair
are not independent, and only the counts of whole pairs have the right variance.

Nothing here plays or knows a task; `outdo.runs.match` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from outdo.evaluation.stats import paired_difference

NAMES = ("loss-loss", "loss-draw", "win-loss or draw-draw", "win-draw", "win-win")
SCORES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])  # of a pair: A's share of its two points
_Z = 1.959963984540054
_EMPTY = 1e-3  # counted in place of nothing by the likelihood, as fishtest does


def elo(score: float) -> float:
    """400 log10(score / (1 - score)): the Elo difference at which A is expected to score that share; infinite at 0 and 1."""
    if score <= 0.0 or score >= 1.0:
        return math.copysign(math.inf, score - 0.5)
    return 400.0 * math.log10(score / (1.0 - score))


def expected_score(elo_difference: float) -> float:
    """The inverse of `elo`. Example: 100 Elo are 0.640."""
    return 1.0 / (1.0 + math.pow(10.0, -elo_difference / 400.0))


def pairs(a_N: ArrayLike, b_N: ArrayLike) -> NDArray[np.float64]:
    """A's share of the points of each pair [N], of what A and B scored (0, 1/2 or 1); NaN where a game has no score.

    b: B's points in the second game, whichever side it had there.
    """
    out: NDArray[np.float64] = (1.0 + np.asarray(a_N, np.float64) - np.asarray(b_N, np.float64)) / 2.0
    return out


def compared(a_N: ArrayLike, b_N: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of A and B where scores are no results of games: the higher score of a pair wins (1, 0), equal ones draw."""
    a, b = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
    points = np.where(np.isnan(a - b), np.nan, (1.0 + np.sign(a - b)) / 2.0)
    return points, 1.0 - points


@dataclass(frozen=True)
class Pentanomial:
    """Pairs counted by A's points: 0, 1/2, 1, 3/2, 2. Example: (34, 54, 63, 64, 75) is an Elo of 56 [28, 83]."""

    counts: tuple[int, ...]

    @staticmethod
    def of(shares_N: ArrayLike) -> Pentanomial:
        """Of what `pairs` gave; NaNs are left out."""
        x = np.asarray(shares_N, np.float64)
        found = np.bincount(np.rint(4.0 * x[~np.isnan(x)]).astype(np.int64), minlength=5)
        return Pentanomial(tuple(int(n) for n in found))

    @property
    def n(self) -> int:
        """Pairs; games are twice as many."""
        return sum(self.counts)

    @property
    def score(self) -> float:
        """A's share of all points; NaN without pairs."""
        return float(np.dot(self.counts, SCORES) / self.n) if self.n else math.nan

    @property
    def variance(self) -> float:
        """Of one pair's share."""
        return float(np.dot(self.counts, (SCORES - self.score) ** 2) / self.n) if self.n else math.nan

    @property
    def score_ci95(self) -> tuple[float, float]:
        """Normal, from the variance of whole pairs. Pairs that all ended alike have no variance: see `unanimous`."""
        if not self.n:
            return 0.0, 1.0
        if self.variance == 0.0:
            return unanimous(self.score, self.n)
        half = _Z * math.sqrt(self.variance / self.n)
        return max(0.0, self.score - half), min(1.0, self.score + half)

    @property
    def elo_ci95(self) -> tuple[float, float]:
        """The ends of `score_ci95` as Elo: not symmetric, infinite where the score's interval reaches 0 or 1."""
        low, high = self.score_ci95
        return elo(low), elo(high)

    @property
    def verdict(self) -> str:
        """Whether the interval holds one half."""
        low, high = self.score_ci95
        return "A is stronger" if low > 0.5 else "B is stronger" if high < 0.5 else "not distinguishable"


def unanimous(value: float, n: int, lowest: float = 0.0, highest: float = 1.0) -> tuple[float, float]:
    """95 % interval of a mean where all n values are the same: a share q of others is still possible.

    q = z^2 / (n + z^2) is Wilson's bound for 0 of n. Example: 100 draws of 100 pairs give 0.5 [0.481, 0.519].
    """
    q = _Z**2 / (n + _Z**2)
    return (1 - q) * value + q * lowest, (1 - q) * value + q * highest


def difference(a_N: ArrayLike, b_N: ArrayLike, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Mean of a - b over starts, with a 95 % bootstrap interval over starts. NaNs where no pair has scores."""
    d = np.asarray(a_N, np.float64) - np.asarray(b_N, np.float64)
    d = d[~np.isnan(d)]
    if not len(d):
        return math.nan, (math.nan, math.nan)
    if np.ptp(d) == 0.0 and abs(d[0]) <= 1.0:  # a bootstrap of equal numbers would be sure
        return float(d[0]), unanimous(float(d[0]), len(d), -1.0, 1.0)
    found = paired_difference(d, np.zeros_like(d), seed=seed)
    return found.value, found.ci95


@dataclass(frozen=True)
class Sprt:
    """A generalised sequential probability ratio test of H0: Elo = elo0 against H1: Elo = elo1 (logistic Elo).

    It may look at the counts after every batch. alpha: chance of accepting H1 where H0 is true; beta: the reverse. The ratio is
    that of the multinomial likelihoods, each maximised under its hypothesis (Li, Liu and Ying, "Generalized sequential
    probability ratio test for separate families of hypotheses", as in Stockfish's fishtest). Bounds are Wald's, without a
    correction for overshoot.
    """

    elo0: float = 0.0
    elo1: float = 10.0
    alpha: float = 0.05
    beta: float = 0.05

    @property
    def bounds(self) -> tuple[float, float]:
        """H0 is accepted at or below the first, H1 at or above the second. Example: alpha = beta = 0.05: (-2.944, 2.944)."""
        return math.log(self.beta / (1.0 - self.alpha)), math.log((1.0 - self.beta) / self.alpha)

    def llr(self, counts: Sequence[int]) -> float:
        """Log of the likelihood ratio of H1 to H0."""
        if not sum(counts):
            return 0.0
        filled = np.array([c or _EMPTY for c in counts], np.float64)
        weights = {e: _weights(filled, expected_score(e)) for e in (self.elo0, self.elo1)}
        return float(np.dot(filled, np.log(weights[self.elo0]) - np.log(weights[self.elo1])))

    def decision(self, counts: Sequence[int]) -> str:
        """ "H0", "H1", or "" where more pairs are needed."""
        low, high = self.bounds
        llr = self.llr(counts)
        return "H1" if llr >= high else "H0" if llr <= low else ""


def _weights(counts: NDArray[np.float64], score: float) -> NDArray[np.float64]:
    """w so that probabilities p / w are the likeliest with this mean, for observed p: w = 1 + x (SCORES - score).

    x solves sum p (SCORES - score) / w = 0, which has one root between the poles.
    """
    p, centred = counts / counts.sum(), SCORES - score
    low, high = -1.0 / centred[-1], -1.0 / centred[0]
    margin = 1e-12 * (high - low)
    x = brentq(lambda x: float(np.dot(p, centred / (1.0 + x * centred))), low + margin, high - margin, xtol=1e-14)
    out: NDArray[np.float64] = 1.0 + x * centred
    return out
