"""What each stage did to its own start. Needs: a stage that was evaluated before and after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, rate, size
from outdo.evaluation.stats import paired_difference

PLACE = 5  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """Every stage against the weights that it started from, greedy, on the same prompts."""
    for name in e.recipe.stage:
        before, after = e.first_rows(name, "greedy"), e.final_rows(name, "greedy")
        if after is None or not before or any(r["value"] is None for r in (*before, *after)):
            continue
        start, end = (np.array([r["items"] for r in rows], float) for rows in (before, after))
        d = paired_difference(end, start)
        verdict = {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict)
        worse = " It is worse than its start." if d.verdict == "lower" else ""
        yield make(f"improves_{name}", f"{name} improves on its start", verdict,
                   f"{name} (greedy) goes from {rate(e, start)} to {rate(e, end)}: {points(e, d)} ({size(e, d)}).{worse}",
                   difference=diff(d), stage=name)
