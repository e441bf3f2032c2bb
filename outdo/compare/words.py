"""How verdicts and tables say their numbers: games that are won, answers that are right, or a score of any size."""

from __future__ import annotations

from typing import Any

import numpy as np

from outdo.compare.evidence import Evidence, Items
from outdo.evaluation.stats import Difference, hierarchical_interval

Verdict = dict[str, Any]


def make(id: str, claim: str, verdict: str, text: str, **evidence: Any) -> Verdict:
    return {"id": id, "claim": claim, "verdict": verdict, "text": text, "evidence": evidence}


def diff(d: Difference) -> dict[str, Any]:
    return {"value": d.value, "ci95": list(d.ci95), "n": d.n, "seeds": d.seeds}


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def score(e: Evidence, x: float) -> str:
    """`87.2 %`, or a plain number where scores are no shares."""
    return percent(x) if e.shares else f"{x:.3g}"


def points(e: Evidence, d: Difference) -> str:
    """`+12.3 points [10.1, 14.5]`"""
    x, low, high = (100 * v if e.shares else v for v in (d.value, *d.ci95))
    return f"{x:+.1f} points [{low:+.1f}, {high:+.1f}]" if e.shares else f"{x:+.3g} [{low:+.3g}, {high:+.3g}]"


def rate(e: Evidence, items: Items) -> str:
    """`87.2 % [85.0, 89.1]`"""
    mean, (low, high) = float(np.nanmean(items)), hierarchical_interval(items)
    return f"{percent(mean)} [{100 * low:.1f}, {100 * high:.1f}]" if e.shares else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def gets(e: Evidence, number: str) -> str:
    """`wins 87.2 %`, `has 87.2 % right` or `scores 1.3`."""
    return {"games": f"wins {number}", "answers": f"has {number} right", "scores": f"scores {number}"}[e.counted]


def size(e: Evidence, d: Difference) -> str:
    seeds = f"{d.seeds} training seeds" if d.seeds > 1 else "one training seed, so other seeds may differ"
    return f"n = {d.n} held-out {'starts' if e.counted == 'games' else 'questions'}, paired; {seeds}"


def nats(d: Difference) -> str:
    """`+0.012 nats a token [+0.010, +0.014]`"""
    return f"{d.value:+.3f} nats a token [{d.ci95[0]:+.3f}, {d.ci95[1]:+.3f}]"
