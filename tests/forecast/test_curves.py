"""Curves, models and their choice.

Run: .venv/bin/python -m pytest tests/forecast   (about 10 s on one core)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outdo.errors import UserError
from outdo.forecast.bands import ceiling
from outdo.forecast.choose import hold_out
from outdo.forecast.curve import Curve, coarse, make, read_csv
from outdo.forecast.events import Events, late
from outdo.forecast.forecast import forecast
from outdo.forecast.models import MODELS, predict

U = np.arange(1, 21) / 20


def curve(score: np.ndarray, noise: float = 0.0, seed: int = 0) -> Curve:
    return Curve(U, score + np.random.default_rng(seed).normal(0, noise, len(U)), np.zeros(len(U)))


def test_each_model_finds_its_own_curve() -> None:
    made = {"last": np.full(20, 0.4), "log_linear": 0.3 + 0.1 * np.log(U + 0.05), "sigmoid": 0.1 + 0.5 / (1 + (0.365 / U) ** 2),
            "power": 0.7 - 0.2 * (U + 0.2) ** -0.5}  # fmt: skip
    at = np.array([2.0])
    truth = {"last": 0.4, "log_linear": 0.3 + 0.1 * np.log(2.05), "sigmoid": 0.1 + 0.5 / (1 + (0.365 / 2) ** 2),
             "power": 0.7 - 0.2 * 2.2**-0.5}  # fmt: skip
    for m in MODELS:
        if m.name in made:
            assert predict(m, curve(made[m.name]), at)[0] == pytest.approx(truth[m.name], abs=0.01), m.name


def test_drift_gains_half_as_much_when_compute_doubles() -> None:
    assert predict(MODELS[1], curve(U), np.array([2.0]))[0] == pytest.approx(1.5)


def test_compute_and_score_may_have_any_unit() -> None:
    small = curve(0.1 + 0.5 * U, 0.02)
    large = Curve(U * 3e12, 100 * small.score, small.se)
    a, b = forecast(small, 2.0), forecast(large, 6e12)
    assert (b.held.name, b.value) == (a.held.name, pytest.approx(100 * a.value))
    assert b.band.ci95 == pytest.approx(100 * np.array(a.band.ci95))


def test_noise_alone_keeps_the_last_value() -> None:
    kept = [hold_out(curve(np.full(20, 0.4), 0.03, seed), 2.0).name == "last" for seed in range(20)]
    assert np.mean(kept) >= 0.5
    assert "no skill over the last value" in forecast(curve(np.full(20, 0.4), 0.03, seed=kept.index(True)), 2.0).verdict()


def test_growth_is_extrapolated() -> None:
    found = forecast(curve(0.1 + 0.15 * np.log(U + 0.05), 0.005), 2.0)
    assert found.held.name != "last"
    assert abs(found.value - (0.1 + 0.15 * np.log(2.05))) < abs(found.last - (0.1 + 0.15 * np.log(2.05)))
    assert found.band.ci95[0] <= found.band.ci80[0] <= found.value <= found.band.ci80[1] <= found.band.ci95[1]


def test_score_stays_within_its_bounds() -> None:
    made = curve(np.clip(0.2 + U, 0, 1))
    found = forecast(Curve(made.compute, made.score, made.se, 0.0, 1.0), 10.0)
    assert 0.0 <= found.band.ci95[0] <= found.value <= found.band.ci95[1] <= 1.0


def test_a_ceiling_only_past_the_midpoint() -> None:
    found = ceiling(curve(0.1 + 0.5 / (1 + (0.2 / U) ** 3), 0.005))
    assert found is not None
    assert found[1] <= 0.6 <= found[2]
    assert ceiling(curve(0.1 + 0.3 * U, 0.005)) is None  # a line has none
    assert ceiling(curve(0.1 + 0.5 / (1 + (1.5 / U) ** 3), 0.005)) is None  # before the midpoint


def test_late_events_are_seen_and_widen_the_band() -> None:
    grown = 0.1 + 0.5 * (1 - np.exp(-U / 0.2))
    assert late(curve(grown, 0.01)) == ""
    assert late(curve(np.where(U > 0.8, 0.15, grown), 0.01)) == "collapse"
    assert late(curve(np.where(U > 0.7, grown + 0.4, grown), 0.01)) == "jump"
    usual, wild = (forecast(curve(grown, 0.01), 2.0, events=Events(k, k, 100)) for k in (0, 10))
    assert wild.band.ci95[0] < usual.band.ci95[0]
    assert wild.band.ci95[1] > usual.band.ci95[1]


def test_long_curves_are_averaged() -> None:
    long = Curve(np.arange(1.0, 101.0), np.random.default_rng(0).normal(0, 1, 100), np.zeros(100))
    short = coarse(long)
    assert len(short) == 20
    assert short.score.mean() == pytest.approx(long.score.mean())
    assert short.se[0] == pytest.approx(1 / np.sqrt(5), rel=0.3)


def test_equal_scores_and_six_points_are_enough() -> None:
    for score in ([0.5] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]):
        found = forecast(make([0, 1, 2, 3, 4, 5], score), 10.0)
        assert np.isfinite([found.value, *found.band.ci95]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("compute,score\n1,2\n2,3\n3,3\n4,4\n5,5\n", "5 points"),
        ("flops,score\n1,2\n", "column compute missing"),
        ("", "column compute and score missing"),
        ("compute,score\n1,1\n2,2\n2,3\n4,4\n5,5\n6,6\n", "point 3: compute does not increase"),
        ("compute,score\n1,1\n2,nan\n3,3\n4,4\n5,5\n6,6\n", "row 2, score: 'nan' is not a finite number"),
        ("compute,score\n1,1\n2,\n3,3\n4,4\n5,5\n6,6\n", "row 2, score: '' is not a number"),
        ("compute,score\n1,1\n2\n3,3\n4,4\n5,5\n6,6\n", "row 2, score"),
        ("compute,score\n-1,1\n2,2\n3,3\n4,4\n5,5\n6,6\n", "negative"),
        ("compute,score,se\n1,1,0\n2,2,-1\n3,3,0\n4,4,0\n5,5,0\n6,6,0\n", "standard error is negative"),
    ],
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_csv(file)


def test_a_file_with_a_byte_order_mark_and_further_columns(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text("step,compute,score,se\n" + "".join(f"{i},{i},{i / 10},0.1\n" for i in range(1, 8)), encoding="utf-8-sig")
    assert read_csv(file, 0.0, 1.0).se.tolist() == [0.1] * 7
