"""Reinforcement closes the gap between judging and doing. Needs: a task with a judging test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, make, percent

PLACE = 60  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """How well the model recognises a win, and how often it wins."""
    if not e.rl or not e.trunk:
        return
    rows = {n: e.final_rows(n, "greedy") for n in (e.trunk, e.rl)}
    if any(r is None or not r[0].get("judging") or r[0]["judging"]["value"] is None for r in rows.values()):
        return
    judge = {n: float(np.mean([r["judging"]["value"] for r in rs or []])) for n, rs in rows.items()}
    wins = {n: float(np.mean([r["value"] for r in rs or []])) for n, rs in rows.items()}
    gaps = {n: judge[n] - wins[n] for n in rows}
    known = judge[e.trunk] > 0.6
    closed = gaps[e.rl] < gaps[e.trunk]
    verdict = "not measurable here" if not known else "supported" if closed and wins[e.rl] > wins[e.trunk] else "contradicted"
    lost = judge[e.rl] < judge[e.trunk] - 0.02
    text = (f"Asked which of two equally long games was just won, {e.trunk} is right in {percent(judge[e.trunk])} of "
            f"{rows[e.trunk][0]['judging']['n']} pairs (guessing: 50 %) and wins {percent(wins[e.trunk])}; "  # type: ignore[index]
            f"after {e.rl} {percent(judge[e.rl])} and {percent(wins[e.rl])}."
            + (" Part of the narrower gap is lost judgement: reinforcement trained no result tokens." if lost else ""))
    yield make("judging_gap", "Reinforcement closes the gap between judging and doing", verdict, text, judging=judge, wins=wins)
