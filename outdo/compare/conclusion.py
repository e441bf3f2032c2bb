"""The one sentence at the end of a run: which stage ended best, by how much and at what cost, or that it cannot be told."""

from __future__ import annotations

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import points, rate, size
from outdo.evaluation.stats import paired_difference
from outdo.ledger import ledger


def conclusion(e: Evidence) -> str:
    """Empty where no stage was evaluated. Stages from which another one starts are on the way, not at the end."""
    ends = {n: x for n in e.recipe.arms() if (x := e.final(n, "greedy")) is not None and n not in e.controls}
    if not ends:
        return ""
    order = sorted(ends, key=lambda n: -float(np.nanmean(ends[n])))
    best, spent = order[0], {n: _cost(e, n) for n in order}
    if len(order) == 1:
        start = e.first_rows(best, "greedy")
        before = np.array([r["items"] for r in start], float)
        d = paired_difference(ends[best], before)
        change = {"higher": "better than", "lower": "worse than"}.get(d.verdict, "not distinguishable from")
        return (f"{best} ends {change} its start: {rate(e, before)} -> {rate(e, ends[best])} (greedy), {points(e, d)} "
                f"({size(e, d)}), for {spent[best]}.")
    second = order[1]
    d = paired_difference(ends[best], ends[second])
    against = f"{second} {rate(e, ends[second])} for {spent[second]}"
    if d.verdict == "higher":
        return (f"{best} ends best: {rate(e, ends[best])} (greedy) for {spent[best]}; then {against}. The difference is "
                f"{points(e, d)} ({size(e, d)}).")
    return (f"Which is best cannot be told: {best} {rate(e, ends[best])} (greedy) for {spent[best]}, {against}. The difference "
            f"is {points(e, d)} ({size(e, d)}).")


def _cost(e: Evidence, stage: str) -> str:
    """FLOPs, seconds and judge calls of a stage, means over seeds."""
    bills = [ledger.summarise(ledger.read(f / "stages" / stage / "ledger.jsonl")) for f in e.folders]
    flops = float(np.mean([sum(b["flops"].values()) for b in bills]))
    calls = float(np.mean([b["judge_calls"] for b in bills]))
    seconds = float(np.mean([b["wall_s"] for b in bills]))
    return f"{flops:.2g} FLOPs, {seconds:,.0f} s" + (f" and {calls:,.0f} judge calls" if calls else "")
