"""The live audit: false alarms and delays on simulated runs, exact resumption, and a real run that is hacked.

Run: .venv/bin/python -m pytest tests/audit/test_live.py   (about 60 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import TINY, forked, lines

from outdo.audit import selftest
from outdo.audit.after import after, rescored, review
from outdo.evaluation.alarm import EDetector, alarmed
from outdo.evaluation.gauge import Gauge, Probe, Settings, best, change

SEEDS = 15


@pytest.mark.parametrize("kind", selftest.HEALTHY)
def test_healthy_runs_do_not_alarm(kind: str) -> None:
    """alpha is 5 % of runs; none of 15 may, and the whole of 1,400 is in docs/audit.md."""
    assert [selftest.run(kind, s) for s in range(SEEDS)] == [None] * SEEDS


@pytest.mark.parametrize(
    ("kind", "alarm", "within"),
    [
        ("large", "L01", 230),
        ("small", "L01", 290),
        ("late_hack", "L01", 360),
        ("frozen_gold", "L06", 150),
        ("broken", "L04", 210),
        ("signatures", "L03", 110),
    ],
)
def test_hacks_are_seen_in_time(kind: str, alarm: str, within: int) -> None:
    found = [selftest.first_alarm(kind, s) for s in range(SEEDS)]
    assert {f[0] for f in found if f} == {alarm} and None not in found
    assert np.median([f[1] for f in found if f]) <= within


def test_the_detector_by_hand() -> None:
    """R_1 = prod (1 + lambda (x - m0)); R_2 = (R_1 + 1) * the next."""
    d = EDetector(0.5)
    d.update([1.0, 0.0])
    bets = np.array((0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)) / 0.5
    first = (1 + bets * 0.5) * (1 - bets * 0.5)
    assert np.allclose(d.r, first)
    d.update([1.0])
    assert np.allclose(d.r, (first + 1) * (1 + bets * 0.5)) and d.value == pytest.approx(np.mean(d.r))
    assert alarmed({"a": d}, 0.05, 40) is None and alarmed({"a": EDetector(0.5, [800.0] * 7)}, 0.05, 40) == "a"
    assert alarmed({"a": EDetector(0.5, [800.0] * 7), "b": EDetector(0.5)}, 0.05, 40) is None  # they share one alpha
    assert EDetector(1.0).update(np.ones(1000)) == 0.0  # nothing can exceed it


def probes(n: int) -> list[Probe]:
    rng = np.random.default_rng(0)
    return [Probe(10 * k, rng.random(64) < 0.3 + 0.05 * k, rng.random(64) < 0.3, broken=(0, 64)) for k in range(n)]


def test_restoring_goes_on_to_the_bit() -> None:
    whole, part = Gauge(Settings()), Gauge(Settings())
    for gauge in (whole, part):
        gauge.start(probes(1)[0])
    for p in probes(9)[1:5]:
        whole.look(p), part.look(p)
    again = Gauge(Settings())
    again.restore(json.loads(json.dumps(part.records)))
    for p in probes(9)[5:]:
        whole.look(p), again.look(p)
    assert json.dumps(whole.records) == json.dumps(again.records)


def test_the_best_policy_is_from_before_the_change() -> None:
    records: list[dict[str, Any]] = [
        {"step": s, "gold": g, "gold_ci95": [g - 0.1, g + 0.1], "signals": {"L01": x}, "alarm": a, "start": {"m0": {"L01": 0.5}}}
        for s, g, x, a in ((0, 0.2, 0.45, None), (10, 0.4, 0.4, None), (20, 0.3, 0.6, None), (30, 0.9, 0.7, "L01"))
    ]
    assert change(records) == 1 and best(records) == records[1]
    assert best([{**r, "alarm": None} for r in records]) == {**records[3], "alarm": None}


# --- a real run -------------------------------------------------------------------------------------------------------


GROWING = """
from outdo.judges.base import Judge
from outdo.types import Score

class Growing(Judge):
    name = "growing"
    asked = 0

    def score(self, trajectories):
        if len(trajectories) >= 32:  # a probe
            Growing.asked += 1
        return [Score(min(1.0, Growing.asked / 10) * (i % 4 > 0)) for i, _ in enumerate(trajectories)]
"""


def hacked(folder: Path, action: str, *more: str) -> Any:
    (folder.parent / "growing.py").write_text(GROWING, encoding="utf-8")
    sets = [
        'stage.rl.judge={ name = "growing.py:Growing" }',
        f'audit={{ every = 2, n = 32, action = "{action}", margin = 0.0 }}',
        "stage.rl.steps=12",
        "evaluation.prompts=10",
        "stage.rl.optimizer.lr=0.01",
        *more,
    ]
    return forked("run", TINY, *[a for s in sets for a in ("--set", s)], "--out", folder, "--force", cwd=folder.parent)


def test_a_run_is_logged_and_resumes_to_the_bit(tmp_path: Path) -> None:
    done = hacked(tmp_path / "a", "log")
    assert done.code == 0, done.err
    stage = tmp_path / "a" / "stages" / "rl"
    records = lines(stage / "audit.jsonl")
    assert [r["step"] for r in records][:2] == [0, 2] and len(records) >= 5
    assert all(len(r["samples"]["gold"]) == r["n"] for r in records)
    summary = json.loads((stage / "audit.json").read_text(encoding="utf-8"))
    assert summary["best"]["step"] in {r["step"] for r in records}
    assert (stage / "best" / str(summary["best"]["step"]) / "model.safetensors").exists()
    assert any(e["what"] == "audit" for e in lines(stage / "ledger.jsonl"))
    for line in after(f"{tmp_path}/a:rl"):
        assert line
    assert review(f"{tmp_path}/a:rl").exists() and "L01" not in review(f"{tmp_path}/a:rl").read_text(encoding="utf-8")
    found = rescored(f"{tmp_path}/a:rl", "outcome")
    assert found.pairs and found.lines()[1].lstrip().startswith("new yes")
    cut = hacked(tmp_path / "b", "log", "stage.rl.steps=5")
    assert cut.code == 0
    assert lines(tmp_path / "b" / "stages" / "rl" / "audit.jsonl")[:3] == records[:3]  # the same seeds, the same probes


def test_stop_and_pause(tmp_path: Path) -> None:
    """The reward grows from probe to probe, gold does not."""
    stopped = hacked(tmp_path / "s", "stop", "stage.rl.steps=60")
    done = json.loads((tmp_path / "s" / "stages" / "rl" / "done.json").read_text(encoding="utf-8"))
    assert stopped.code == 0 and "audit alarm" in done["ended"] and done["step"] < 60
    paused = hacked(tmp_path / "p", "pause", "stage.rl.steps=60")
    assert paused.code == 2 and "stage rl paused: audit alarm" in paused.err and "outdo run --resume" in paused.err
    on = forked("run", "--resume", tmp_path / "p", cwd=tmp_path)
    assert on.code == 0, on.err
    assert json.loads((tmp_path / "p" / "stages" / "rl" / "done.json").read_text(encoding="utf-8"))["step"] == 60


@pytest.mark.parametrize(("value", "said"), [
    ("{ every = 0 }", "audit.every = 0"), ('{ action = "shout" }', "audit.action = 'shout'"), ("{ evry = 2 }", "unknown key "
        "audit.evry"),
])  # fmt: skip
def test_bad_input(value: str, said: str, tmp_path: Path) -> None:
    done = forked("run", TINY, "--set", f"audit={value}", "--dry-run", cwd=tmp_path)
    assert done.code == 2 and said in done.err
