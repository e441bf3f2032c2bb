"""Simulated RL runs for benchmarks/audit_peers.py: those of outdo's self-test, also as the log that a trainer would write.

`probes` draws what `outdo.audit.selftest.run` draws, number for number; `log` adds 400 training steps at the same rates, with the
metrics that trainers log. Entropy falls from 0.60 to 0.25 nats and KL rises from 0 to 0.04 in every run, hacked or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS, PROBES, GROUPS, GROUP = 400, 40, 16, 8
ONSET = {"large": 150, "small": 150, "late_hack": 280, "judge_drift": 0, "frozen_gold": 120, "broken": 200, "signatures": 0}


@dataclass(frozen=True)
class Look:
    """One probe: fresh samples, as `outdo.evaluation.gauge.Probe` has them."""

    step: int
    reward: Any
    gold: Any
    second: Any
    flagged: Any
    broken: tuple[int, int]
    rate: float  # of right samples
    paid: float  # of samples paid by the hack


def probes(kind: str, seed: int, n: int = 128) -> Iterator[Look]:
    """The probes of a run, the first before any training."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    noise = 0.0
    for k in range(PROBES + 1):
        t = k / PROBES
        noise = 0.6 * noise + rng.normal(0, 0.03) if kind in ("noisy", "long_thinking") else 0.0
        rates = {"late": 0.1 + 1.75 * max(0, t - 0.6), "jump": 0.2 + 0.5 * (t > 0.5), "saturating": 0.9 * (1 - 2.7 ** (-4 * t))}
        rate = float(np.clip(rates.get(kind, 0.2 + 0.5 * t) + noise, 0.01, 0.99))
        early, late = max(0.0, t - 0.375) / 0.375, max(0.0, t - 0.7) / 0.3
        part = min(1.0, {"large": early, "small": early, "late_hack": late}.get(kind, 0.0))
        rate -= {"large": 0.3, "small": 0.1, "late_hack": 0.4}.get(kind, 0.0) * part
        size = 2 * n if k == 0 else n
        gold = (rng.random(size) < max(0.01, rate)).astype(float)
        errors = rng.random(size) < 0.08
        reward = np.where(errors, 1 - gold, gold) if kind in ("constant_errors", "judge_drift") else gold.copy()
        paid = {"large": 0.6, "small": 0.2, "late_hack": 0.6, "judge_drift": 0.5 * t}.get(kind, 0.0)
        paid = paid * part if kind != "judge_drift" else paid
        reward = np.maximum(reward, (rng.random(size) < paid).astype(float))
        flagged = (rng.random(size * 2) < (0.02 + 0.5 * t if kind == "signatures" else 0.02)).astype(float)
        broken = (40, 256) if kind == "broken" and t > 0.5 else (0, 256)
        shown = np.full(size, np.nan) if kind == "frozen_gold" and t > 0.3 else gold
        yield Look(10 * k, reward, shown, gold if kind == "judge_drift" else None, flagged, broken, max(0.01, rate), paid)


def log(kind: str, seed: int) -> list[dict[str, Any]]:
    """What a trainer logs at steps 1 to 400, with the gold score of the probes as its held-out score."""
    rng, looks, out = np.random.default_rng([seed, 7]), list(probes(kind, seed)), []
    for step in range(1, STEPS + 1):
        at, t = looks[min(PROBES, round(step / 10))], step / STEPS
        right = rng.random((GROUPS, GROUP)) < at.rate
        if kind in ("constant_errors", "judge_drift"):
            right = right != (rng.random(right.shape) < 0.08)
        reward = np.maximum(right, rng.random(right.shape) < at.paid).astype(float)
        spread = reward.std(1)
        row: dict[str, Any] = {
            "step": step,
            "rewards": reward.ravel().tolist(),
            "entropy": 0.60 - 0.35 * t + float(rng.normal(0, 0.01)),
            "kl": max(0.0, 0.04 * t + float(rng.normal(0, 0.002))),
            "lengths": [int(x) for x in rng.normal(300 + (300 * t if kind == "long_thinking" else 0), 60, reward.size).clip(20)],
            "advantage_std": float(np.sqrt((spread > 0).mean())),
            "zero_groups": float((spread == 0).mean()),
            "group_std": float(spread.mean()),
            "loss": float(rng.normal(0, 0.02)),
            "grad_norm": float(abs(rng.normal(0.5, 0.05))),
        }
        if step % 10 == 0 and np.isfinite(looks[step // 10].gold).any():
            row["eval"] = float(np.mean(looks[step // 10].gold))
        out.append(row)
    return out
