"""Forecasts in run folders: kept while a run goes on, scored when it ends, and the two commands.

Run: .venv/bin/python -m pytest tests/forecast   (about 10 s on one core)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outdo.cli import main
from outdo.forecast import store
from outdo.forecast.skill import skill
from outdo.system import files


def stage(run: Path, evaluations: int, steps: int, gamed: bool = False, points: int = 4) -> Path:
    """A stage whose reward grows with every step; so does the score at its evaluations, unless the reward is gamed."""
    folder = run / "stages" / "rl"
    folder.mkdir(parents=True)
    (run / "recipe.toml").write_text(f"[evaluation]\npoints = {points}\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    for i in range(steps):
        files.append_line(folder / "metrics.jsonl", {"step": i, "flops": (i + 1) * 1e9, "reward": 0.01 * i + rng.normal(0, 0.01)})
    for point in range(evaluations):
        evaluate(folder, point, point * 20, 0.1 if gamed else 0.1 + 0.01 * 20 * point)
    return folder


def evaluate(folder: Path, point: int, step: int, value: float) -> None:
    files.append_line(folder / "evaluations.jsonl", {
        "step": step, "point": point, "flops": step * 1e9, "last": False, "split": "heldout", "decode": "sampled",
        "opponent": "none", "value": value, "ci95": [value - 0.03, value + 0.03], "share": True})


def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["outdo", *words])
    code = main._app()
    out = capsys.readouterr()
    return code, out.out + out.err


def test_forecast_is_kept_from_the_third_evaluation_and_scored_at_the_end(tmp_path: Path) -> None:
    folder = stage(tmp_path / "r", 2, 20)
    assert store.note(folder, 20, 1, 0.25, False) is None
    assert not (folder / store.FILE).exists()
    for i in range(20, 40):
        files.append_line(folder / "metrics.jsonl", {"step": i, "flops": (i + 1) * 1e9, "reward": 0.01 * i})
    evaluate(folder, 2, 40, 0.5)
    found = store.note(folder, 40, 2, 0.5, False)
    assert found is not None
    assert found.at == pytest.approx(80e9)
    assert found.last == pytest.approx(0.5)
    assert found.value > 0.55
    assert store.stored(folder) == []
    evaluate(folder, 4, 80, 0.85)
    assert store.note(folder, 80, 4, 1.0, True) is None
    (record,) = store.stored(folder)
    assert (record["truth"], record["point"]) == (0.85, 2)


def test_a_gamed_reward_does_not_lift_the_forecast(tmp_path: Path) -> None:
    found = store.of_score(store.history(stage(tmp_path / "r", 3, 40, gamed=True)), 80e9)
    assert found is not None
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert found.band.ci95[1] < 0.25


def test_too_little_gives_none(tmp_path: Path) -> None:
    assert store.of_score(store.history(stage(tmp_path / "a", 3, 5)), 1e12) is None
    assert store.of_score(store.history(tmp_path / "nothing"), 1e12) is None


def test_skill_and_coverage() -> None:
    rows: list[list[dict[str, Any]]] = [
        [{"value": t + 0.01, "last": t - 0.1, "truth": t, "ci95": (t - 1, t + 1), "ci80": (t + 1, t + 2)}]
        for t in (0.2, 0.5, 0.6)]
    s = skill(rows)
    assert s.skill[0] == pytest.approx(0.9)
    assert (s.coverage["95"][0], s.coverage["80"][0]) == (1.0, 0.0)
    assert s.coverage["95"][1] < 0.6  # of three stages


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "r"
    folder = stage(run, 3, 40)
    code, said = say(capsys, monkeypatch, "forecast", str(run))
    assert code == 0
    assert "at 8e+10" in said  # point 2 of 4 at 4e10
    assert "95 % band" in said
    code, said = say(capsys, monkeypatch, "forecasts", str(run))
    assert (code, "no forecast whose truth is known" in said) == (2, True)
    evaluate(folder, 4, 80, 0.85)
    (folder / "done.json").write_text("{}", encoding="utf-8")
    code, said = say(capsys, monkeypatch, "forecasts", "--half", str(run))
    assert code == 0
    assert "r:rl" in said
    assert "skill" in said
    code, said = say(capsys, monkeypatch, "forecast", f"{run}:rl", "--curve", "reward", "--json")
    assert json.loads(said)["at"] == pytest.approx(160e9)  # twice what has ended


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["forecast"], "give either a run or --csv FILE"),
        (["forecast", "nowhere"], "not a run folder"),
        (["forecast", "R:sft"], "no stage 'sft'"),
        (["forecast", "R", "--at", "1"], "the curve already goes to"),
        (["forecast", "R", "--curve", "loss"], "give one of score, reward, gold"),
        (["forecast", "R", "--curve", "gold"], "fewer than six points of gold"),
        (["forecast", "R", "--range", "0,1"], "--range is for --csv"),
        (["forecast", "--csv", "nowhere.csv"], "does not exist"),
        (["forecast", "--csv", "C", "--range", "1"], "write two numbers"),
        (["forecast", "--csv", "C"], "has 1 points"),
        (["forecasts", "nowhere"], "not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    stage(tmp_path / "r", 3, 40)
    (tmp_path / "c.csv").write_text("compute,score\n1,2\n", encoding="utf-8")
    places = {"R": str(tmp_path / "r"), "R:sft": f"{tmp_path / 'r'}:sft", "C": str(tmp_path / "c.csv")}
    code, out = say(capsys, monkeypatch, *(places.get(w, w) for w in words))
    assert code == 2
    assert said in out
    assert out.count("\n") == 1
