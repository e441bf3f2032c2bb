"""The gain holds against opponents that RL never met. Needs: opponents in the evaluation that no stage trained against."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, rate, size
from outdo.evaluation.stats import paired_difference

PLACE = 50  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """A gain against one defender may be an exploit of it."""
    if not e.rl or not e.trunk:
        return
    met = getattr(e.recipe.stage[e.rl], "opponents", ()) or e.opponents[:1]
    unseen = [o for o in e.opponents if o not in met]
    if not unseen:
        return
    found, worst = [], "supported"
    for opponent in unseen:
        ours, start = e.final(e.rl, "greedy", opponent), e.final(e.trunk, "greedy", opponent)
        if ours is None or start is None:
            return
        d = paired_difference(ours, start)
        found.append((opponent, d, ours))
        worst = worst if d.verdict == "higher" else "contradicted" if d.verdict == "lower" else "not distinguishable"
    said = "; ".join(f"{o}: {rate(e, x)}, {points(e, d)}" for o, d, x in found)
    text = (f"Against opponents that it never trained against, {e.rl} (greedy) compared with its start {e.trunk}: {said} "
            f"({size(e, found[0][1])}).")
    yield make("unseen_opponents", "The gain holds against opponents that reinforcement never met", worst, text,
               differences={o: diff(d) for o, d, _ in found})
