"""Imitation copies moves, reinforcement learns to win. Needs: a task that measures agreement with the teacher."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, percent, points, size
from outdo.evaluation.stats import paired_difference

PLACE = 40  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """Agreement with the teacher goes down while the score goes up."""
    if not e.rl or not e.trunk:
        return
    before, after = e.final_rows(e.trunk, "greedy"), e.final_rows(e.rl, "greedy")
    if before is None or after is None or before[0]["extra"].get("teacher_agreement") is None:
        return
    a0, a1 = (float(np.mean([r["extra"]["teacher_agreement"] for r in rows])) for rows in (before, after))
    d = paired_difference(np.array([r["items"] for r in after], float), np.array([r["items"] for r in before], float))
    verdict = "supported" if a1 < a0 and d.verdict == "higher" else "contradicted" if a1 > a0 else d.verdict
    text = (f"From {e.trunk} to {e.rl} (greedy) the share of moves that are the teacher's goes from {percent(a0)} to "
            f"{percent(a1)} while the score changes by {points(e, d)} ({size(e, d)}). Agreement is a mean over games, no "
            "interval.")
    yield make("copies_or_wins", "Imitation copies moves, reinforcement learns to win", verdict, text,
               agreement_before=a0, agreement_after=a1, difference=diff(d))
