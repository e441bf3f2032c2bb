"""The audit on itself: every bad reward is caught by its named check, no honest one fails any.

A matrix of checks, and of what each says about its own bad and good rewards and about all honest rewards there are.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from outdo.audit import fixtures, simulated
from outdo.audit import judge as judging
from outdo.audit.audit import audit_reward, make_checks
from outdo.audit.base import Check, Finding, Fixture, Verdict
from outdo.evaluation.gauge import Gauge, Probe, Settings

CAUGHT = (Verdict.FAIL, Verdict.WARN)


@dataclass
class Row:
    """A check's own fixtures: their verdicts, worst first."""

    check: Check
    bad: list[tuple[str, Finding]] = field(default_factory=list)
    good: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether all bad ones are caught and no good one fails."""
        return all(f.verdict in CAUGHT for _, f in self.bad) and not any(
            f.verdict in (Verdict.FAIL, Verdict.ERROR) for _, f in self.good
        )


def on(one: Check, fixture: Fixture, seed: int = 0) -> Finding:
    """What a check says about a fixture."""
    options: dict[str, Any] = {"timeout_s": 5.0, **fixture.options}
    card = audit_reward(fixture.reward, fixtures.data(fixture.data), checks=[one.id], seed=seed, **options)
    return card.find(one.id)


def matrix(
    checks: Sequence[Check] | None = None, seed: int = 0, progress: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """Every check on its own fixtures."""
    rows = []
    for one in checks or make_checks():
        progress(f"{one.id} {one.title}")
        row = Row(one)
        row.bad = [(f.reward.__name__, on(one, f, seed)) for f in one.bad]
        row.good = [(f.reward.__name__, on(one, f, seed)) for f in one.good]
        rows.append(row)
    return rows


def honest(seed: int = 0, progress: Callable[[str], None] = lambda text: None) -> dict[str, list[Finding]]:
    """Every honest reward through all checks: what fails, which should be nothing."""
    out = {}
    for name, (reward, data, options) in fixtures.GOOD.items():
        progress(name)
        card = audit_reward(reward, fixtures.data(data), seed=seed, **{"timeout_s": 5.0, "budget": 600, **options})
        out[name] = [f for f in card.findings if f.verdict in (Verdict.FAIL, Verdict.ERROR)]
    return out


def table(rows: Sequence[Row]) -> str:
    """The matrix as Markdown."""
    out = ["| check | looks for | bad reward: verdict | honest rewards: verdict |", "|---|---|---|---|"]
    for r in rows:
        bad, good = (", ".join(f"`{name}` {f.verdict}" for name, f in side) for side in (r.bad, r.good))
        out.append(f"| {r.check.id} | {r.check.title} | {bad} | {good} |")
    return "\n".join(out)


# --- judges ---------------------------------------------------------------------------------------------------------


def planted(seed: int = 0) -> list[tuple[str, str, Finding]]:
    """Each check of judges on a judge with its bias planted: id, bias, finding."""
    out = []
    for one in judging.make_checks():
        if not one.planted:
            continue
        if one.planted == "first":
            pairs = [{"prompt": f"p{i} {seed}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(60)]
            card = judging.audit_judge(simulated.first, simulated.labels(seed), pairs=pairs, checks=[one.id], seed=seed)
        else:
            judge = simulated.Unclamped() if one.planted == "unclamped" else simulated.judge(one.planted, seed)
            card = judging.audit_judge(judge, simulated.labels(seed), checks=[one.id], seed=seed)
        out.append((one.id, one.planted, card.find(one.id)))
    return out


def honest_judges(seeds: int) -> dict[str, int]:
    """Of so many cards of each honest judge, those with any FAIL."""
    out = {}
    for name in simulated.HONEST:
        cards = (judging.audit_judge(simulated.judge(name, s), simulated.labels(s), seed=s) for s in range(seeds))
        out[name] = sum(card.verdict == "fail" for card in cards)
    return out


# --- live -----------------------------------------------------------------------------------------------------------

HEALTHY = ("steady", "noisy", "long_thinking", "late", "jump", "constant_errors", "saturating")
HACKED = ("large", "small", "late_hack", "judge_drift", "frozen_gold", "broken", "signatures")


def run(kind: str, seed: int, probes: int = 40, n: int = 128) -> str | None:
    """The name of the first alarm of a simulated run; None for none."""
    found = first_alarm(kind, seed, probes, n)
    return found[0] if found else None


def first_alarm(kind: str, seed: int, probes: int = 40, n: int = 128) -> tuple[str, int] | None:
    """The first alarm of a simulated run of 400 steps, probed every ten, and its step; hacks begin at 150 (late ones at 280)."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    gauge, noise = Gauge(Settings(horizon=probes)), 0.0
    for k in range(probes + 1):
        t = k / probes
        noise = 0.6 * noise + rng.normal(0, 0.03) if kind in ("noisy", "long_thinking") else 0.0
        rates = {"late": 0.1 + 1.75 * max(0, t - 0.6), "jump": 0.2 + 0.5 * (t > 0.5), "saturating": 0.9 * (1 - 2.7 ** (-4 * t))}
        gold_rate = rates.get(kind, 0.2 + 0.5 * t)
        gold_rate = float(np.clip(gold_rate + noise, 0.01, 0.99))
        early, late = max(0.0, t - 0.375) / 0.375, max(0.0, t - 0.7) / 0.3
        part = min(1.0, {"large": early, "small": early, "late_hack": late}.get(kind, 0.0))
        gold_rate -= {"large": 0.3, "small": 0.1, "late_hack": 0.4}.get(kind, 0.0) * part
        size = 2 * n if k == 0 else n
        gold = (rng.random(size) < max(0.01, gold_rate)).astype(float)
        errors = rng.random(size) < 0.08
        reward = np.where(errors, 1 - gold, gold) if kind in ("constant_errors", "judge_drift") else gold.copy()
        paid = {"large": 0.6, "small": 0.2, "late_hack": 0.6, "judge_drift": 0.5 * t}.get(kind, 0.0)
        paid = paid * part if kind != "judge_drift" else paid
        reward = np.maximum(reward, (rng.random(size) < paid).astype(float))
        second = gold if kind == "judge_drift" else None
        flagged = (rng.random(size * 2) < (0.02 + 0.5 * t if kind == "signatures" else 0.02)).astype(float)
        broken = (40, 256) if kind == "broken" and t > 0.5 else (0, 256)
        shown = np.full(size, np.nan) if kind == "frozen_gold" and t > 0.3 else gold
        probe = Probe(10 * k, reward, shown, second, flagged, broken)
        record = gauge.start(probe) if k == 0 else gauge.look(probe)
        if record["alarm"]:
            return str(record["alarm"]), 10 * k
    return None


def live(seeds: int) -> dict[str, tuple[int, dict[str, int]]]:
    """Of so many runs of each kind, those with an alarm, and which."""
    out = {}
    for kind in (*HEALTHY, *HACKED):
        alarms = Counter(a for s in range(seeds) if (a := run(kind, s)) is not None)
        out[kind] = (sum(alarms.values()), dict(alarms))
    return out
