"""Pentanomial counts, Elo and the sequential test, against numbers worked by hand and published ones, and by simulation.

Run: .venv/bin/python -m pytest tests/evaluation/test_match.py   (about 3 s on one core)
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from outdo.evaluation import match
from outdo.evaluation.match import SCORES, Pentanomial, Sprt, compared, elo, expected_score, pairs
from outdo.evaluation.stats import wilson

# --- counts ----------------------------------------------------------------------------------------------------------


def test_a_pair_is_one_of_five() -> None:
    """A's points in the first game and B's in the second; both colours, or both players against one opponent."""
    a, b = np.array([0, 0, 0.5, 1, 0.5, 1, 1, 0, np.nan]), np.array([1, 0.5, 0.5, 1, 0, 0.5, 0, 0, 1])
    assert Pentanomial.of(pairs(a, b)).counts == (1, 1, 3, 2, 1)
    assert Pentanomial.of(pairs(b, a)).counts == (1, 2, 3, 1, 1), "seen from the other side"
    assert Pentanomial.of([]).n == 0 and math.isnan(Pentanomial.of([]).score)


def test_scores_are_compared_pair_by_pair() -> None:
    one, other = compared([0.3, 7.0, -1.0, np.nan], [0.2, 7.0, 0.0, 1.0])
    np.testing.assert_array_equal(one, [1, 0.5, 0, np.nan])
    np.testing.assert_array_equal(other, [0, 0.5, 1, np.nan])
    assert Pentanomial.of(pairs(one, other)).counts == (1, 0, 1, 0, 1)


# --- Elo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "want"), [(0.5, 0.0), (0.75, 190.8485), (0.64, 99.9510), (10 / 11, 400.0), (1 / 11, -400.0)])
def test_elo(score: float, want: float) -> None:
    assert elo(score) == pytest.approx(want, abs=1e-4)
    assert expected_score(elo(score)) == pytest.approx(score)
    assert (elo(0.0), elo(1.0)) == (-math.inf, math.inf)


def test_by_hand() -> None:
    """Two pairs, 1 and 2 points of 2: shares 1/2 and 1, mean 3/4, variance 1/16, standard error sqrt(1/32) = 0.17678."""
    p = Pentanomial((0, 0, 1, 0, 1))
    assert (p.score, p.variance) == (0.75, 0.0625)
    assert p.score_ci95 == pytest.approx((0.75 - 1.959964 * 0.1767767, 1.0))
    assert p.elo_ci95 == (pytest.approx(400 * math.log10(0.403524 / 0.596476), abs=1e-3), math.inf)
    assert p.verdict == "not distinguishable"


@pytest.mark.parametrize(("counts", "want", "half"), [  # elo_test.cpp of fastchess: counts, Elo, half of its 95 % interval
    ((34, 54, 31 + 32, 64, 75), 55.58, 27.65),
    ((332, 433, 457 + 41, 333, 334), -8.64, 10.33),
    ((7895, 8757, 5485 + 200, 568, 9999), -21.04, 2.95),
])  # fmt: skip
def test_published_elo(counts: tuple[int, ...], want: float, half: float) -> None:
    p = Pentanomial(counts)
    assert elo(p.score) == pytest.approx(want, abs=0.006)
    low, high = p.elo_ci95
    assert (high - low) / 2 == pytest.approx(half, abs=0.006)


def test_pairs_that_all_end_alike_are_not_sure() -> None:
    """Wilson's bound, where a variance of zero would give an interval without width."""
    assert Pentanomial((0, 0, 0, 0, 20)).score_ci95 == pytest.approx(wilson(20, 20))
    low, high = Pentanomial((0, 0, 100, 0, 0)).score_ci95
    assert (low + high) / 2 == 0.5 and low == pytest.approx(0.5 - (1 - wilson(100, 100)[0]) / 2)
    assert match.difference(np.ones(20), np.zeros(20))[1] == pytest.approx((2 * wilson(20, 20)[0] - 1, 1.0))
    assert match.difference([0.0, 1.0, np.nan], [1.0, 1.0, 0.0])[0] == -0.5
    assert math.isnan(match.difference([np.nan], [0.0])[0])


def test_intervals_hold_the_truth() -> None:
    rng, p = np.random.default_rng(0), np.array([0.1, 0.15, 0.35, 0.25, 0.15])
    truth, hits = elo(float(p @ SCORES)), 0
    for counts in rng.multinomial(200, p, 1000):
        low, high = Pentanomial(tuple(counts)).elo_ci95
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.97


# --- the sequential test ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "test", "want"), [  # sprt_test.cpp of fastchess, which follows fishtest
    ((223, 9863, 20279 + 1000, 10037, 246), Sprt(0.5, 2.5), -3.07),
    ((871, 26175, 55003 + 980, 26678, 821), Sprt(0.0, 2.0), -4.98),
])  # fmt: skip
def test_published_likelihood_ratios(counts: tuple[int, ...], test: Sprt, want: float) -> None:
    assert test.llr(counts) == pytest.approx(want, abs=0.006)
    assert test.decision(counts) == "H0"


def test_likelihood_ratio_by_hand() -> None:
    """Nothing but 60 win-win and 40 loss-loss is Wald's test of a coin: 60 log(s1 / s0) + 40 log((1 - s1) / (1 - s0))."""
    s1 = expected_score(50.0)  # 0.5715
    want = 60 * math.log(s1 / 0.5) + 40 * math.log((1 - s1) / 0.5)
    assert Sprt(0.0, 50.0).llr((40, 0, 0, 0, 60)) == pytest.approx(want, abs=0.01)
    assert Sprt(0.0, 50.0).llr((0, 0, 0, 0, 0)) == 0.0


def test_likelihood_ratio_near_its_normal_approximation() -> None:
    """N (s1 - s0) (2 s - s0 - s1) / (2 variance), of the same authors, for small differences of Elo."""
    p, test = Pentanomial((100, 900, 2000, 1000, 110)), Sprt(0.0, 4.0)
    s0, s1 = expected_score(test.elo0), expected_score(test.elo1)
    want = p.n * (s1 - s0) * (2 * p.score - s0 - s1) / (2 * p.variance)
    assert test.llr(p.counts) == pytest.approx(want, rel=0.02)


def test_bounds() -> None:
    assert Sprt().bounds == pytest.approx((-math.log(19), math.log(19)))
    assert Sprt(alpha=0.01, beta=0.1).bounds == pytest.approx((math.log(0.1 / 0.99), math.log(90)))


def test_the_other_side_mirrors() -> None:
    counts = (3, 20, 50, 30, 9)
    assert Sprt(-5.0, 12.0).llr(counts) == pytest.approx(-Sprt(-12.0, 5.0).llr(counts[::-1]))
    assert elo(Pentanomial(counts).score) == pytest.approx(-elo(Pentanomial(counts[::-1]).score))


@pytest.mark.parametrize(("truth", "wrong"), [(0.0, "H1"), (40.0, "H0")])
def test_error_rates_hold(truth: float, wrong: str) -> None:
    """Looking after every batch of 25 pairs, until one hypothesis is accepted."""
    rng, test, errors = np.random.default_rng(1), Sprt(0.0, 40.0, 0.1, 0.1), 0
    p = np.array([0.1, 0.15, 0.5, 0.15, 0.1])
    p = p / match._weights(p, expected_score(truth))  # the likeliest with that Elo
    for _ in range(300):
        counts = np.zeros(5, np.int64)
        while not (decision := test.decision(counts.tolist())):
            counts += rng.multinomial(25, p)
        errors += decision == wrong
    assert errors / 300 <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 300)
