"""Advice: every rule decides on a case of its own, predictions keep their order, the record grows and is scored.

Run: .venv/bin/python -m pytest tests/advice   (about 20 s on one core)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import forked

from outdo.advice import record
from outdo.advice.base import Measured, Share, measured
from outdo.advice.predict import advise
from outdo.advice.rules import RULES

N = 24


def share(x: float) -> Share:
    return Share(x, max(0.0, x - 0.05), min(1.0, x + 0.05), N)


USUAL = Measured(score=share(0.05), best=share(0.4), chosen=share(0.35), k=8, same=share(0.4), middle=share(0.3), truncated=0.0,
                 tokens=20.0, turns=True, auc=None, audit=(), demonstrations=None, start="m", flops_sample=1e7, flops_update=4e7)
CASES: dict[str, dict[str, Any]] = {
    "weak judge": {"auc": Share(0.5, 0.42, 0.58, N)},
    "right already": {"score": share(0.97)},
    "no signal, perfect demonstrations": {"best": share(0.0), "demonstrations": share(1.0)},
    "no signal, flawed demonstrations": {"best": share(0.0), "demonstrations": share(0.4)},
    "no signal": {"best": share(0.0)},
    "known best behaviour": {"demonstrations": share(0.98)},
    "demonstrations beyond samples": {"demonstrations": share(0.7)},
    "dense feedback is enough": {"chosen": share(0.06), "best": share(0.2), "demonstrations": share(0.2)},
    "nothing to sharpen": {"chosen": share(0.06)},
    "fair middle ground": {"score": share(0.3), "turns": False},
    "unknown best behaviour": {},
}


def test_every_rule_has_a_case() -> None:
    assert [r.name for r in RULES] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_rule_decides(name: str) -> None:
    m = replace(USUAL, **CASES[name])
    advice = advise(m, 1e12)
    assert advice.rule == name
    rule = next(r for r in RULES if r.name == name)
    assert (advice.option == rule.option and "[" in advice.reasons[0] and "n = 24" in advice.reasons[0]) or name == "weak judge"
    if name != "unknown best behaviour":  # nor does it without its reason
        assert advise(USUAL, 1e12).rule != name


def test_an_audit_that_fails_mends_the_judge_first() -> None:
    assert advise(replace(USUAL, audit=("FAIL A14 free reward: silence earns 60%",)), 1e12).option == "mend_judge"
    assert advise(replace(USUAL, audit=("WARN A14 free reward: silence earns 20%",)), 1e12).option == "rl"


def test_predictions_grow_with_the_budget_and_stay_in_their_band() -> None:
    m = replace(USUAL, demonstrations=share(0.6))
    small, large = ({o.name: o for o in advise(m, b).options} for b in (1e10, 1e14))
    for name in ("rl", "rejection", "sft", "filtered_sft"):
        assert m.score.value <= small[name].predicted < large[name].predicted
        assert all(o.low <= o.predicted <= o.high for o in (small[name], large[name]))
    assert large["sft"].predicted <= 0.6 < large["rl"].predicted  # imitation ends at its teacher
    assert small["nothing"].predicted == large["nothing"].predicted == m.score.value


def test_measurements_survive_json() -> None:
    m = replace(USUAL, auc=share(0.8), audit=("WARN x",), demonstrations=share(0.5))
    assert measured(m.record()) == m


def test_the_record_grows_and_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert record.summary() == ["no advice has been scored yet (0 outcomes; a run needs the advised option and another one)"]
    assert not record.outcome("q", "run", {"rl": 0.5, "sft": 0.4})  # nobody asked
    record.keep("q", advise(USUAL, 1e12), USUAL, 1e12)
    assert record.outcome("q", "runs/a", {"rl": 0.5, "sft": 0.4}) and record.outcome("q", "runs/b", {"rl": 0.2, "sft": 0.5})
    first, second = record.summary()
    assert first.startswith("1 of 2 pieces of advice were best or tied (50% [9%, 91%]); mean regret 0.150, worst 0.300")
    assert second.startswith("2 of 2 scores fell into the predicted band")


def test_the_command(tmp_path: Path) -> None:
    """On a real task from random weights: probes, advice, a recipe that runs, and the record scored at its end."""
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    done = forked("advise", "r.toml", "--budget", "3e9flops", "--out", "advised.toml", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "advice: " in done.out and "because " in done.out and "written to advised.toml" in done.out
    ran = forked("run", "advised.toml", "--out", "out", "--force", cwd=tmp_path)
    assert ran.code == 0, ran.err
    shown = forked("advise", "--record", cwd=tmp_path)
    assert "pieces of advice were best or tied" in shown.out


@pytest.mark.parametrize(("argv", "said"), [
    ([], "no recipe; for example: outdo advise my_recipe.toml --budget 30m"),
    (["r.toml", "--budget", "soon"], "--budget 'soon': write a time (30m, 2h) or arithmetic (1e13flops)"),
    (["r.toml", "--budget", "0m"], "--budget '0m': give more than nothing"),
    (["nowhere.toml"], "recipe 'nowhere.toml' does not exist"),
])  # fmt: skip
def test_bad_input(argv: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    done = forked("advise", *argv, cwd=tmp_path)
    assert done.code == 2 and said in done.err


RECIPE = """
name = "tiny"
threads = 1
[task]
name = "chess_endgame"
material = "KQK"
max_moves = 6
[model]
width = 16
depth = 1
heads = 2
[evaluation]
prompts = 20
points = 1
opponents = ["perfect"]
players = []
[stage.sft]
kind = "sft"
player = "teacher"
steps = 2
[stage.rl]
kind = "rl"
steps = 2
"""
