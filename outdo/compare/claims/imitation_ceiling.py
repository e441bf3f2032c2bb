"""Imitation ends at or below its teacher. Needs: an imitation stage and the player that it imitates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.deciding import GOLD, MARGIN
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, rate, size
from outdo.evaluation.stats import paired_difference

PLACE = 20  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    if not e.teacher or e.teacher == GOLD or not e.trunk:
        return
    teacher = e.player(e.teacher)
    candidates = [(n, decode, e.final(n, decode)) for n in [e.trunk, *filter(None, [e.more_imitation])]
                  for decode in ("greedy", "sampled")]
    scored = [(n, decode, x) for n, decode, x in candidates if x is not None]
    if teacher is None or not scored:
        return
    name, decode, best = max(scored, key=lambda c: float(np.nanmean(c[2])))
    d = paired_difference(best, teacher)
    low, high = d.ci95
    verdict = "supported" if high <= MARGIN else "contradicted" if low > 0 else "not distinguishable"
    text = (f"The best imitation of all the teacher's games, {name} ({decode}), wins {rate(e, best)}; the teacher "
            f"{rate(e, teacher)}: {points(e, d)} ({size(e, d)}). Supported means: at most "
            f"{100 * MARGIN:.0f} points above the teacher.")
    yield make("imitation_ceiling", "Imitation ends at or below its teacher", verdict, text, difference=diff(d), stage=name)
