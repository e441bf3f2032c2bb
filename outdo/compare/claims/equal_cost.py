"""RL against every other arm from the same start, at a cost that both reached. Needs: two arms from one start."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.deciding import at_equal_cost
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict

PLACE = 30  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """RL against every other arm from the same start, at equal FLOPs."""
    claims = {"rl_vs_imitation": (e.more_imitation, "At equal FLOPs reinforcement beats more imitation"),
              "rl_vs_rejection": (e.rejection, "At equal FLOPs reinforcement beats imitating its own "
                                        f"{'wins' if e.counted == 'games' else 'best answers'} (rejection)")}
    for id, (other, claim) in claims.items():
        if e.rl and other:
            for decode in ("greedy", "sampled"):
                yield from at_equal_cost(e, f"{id}_{decode}", f"{claim} ({decode})", e.rl, other, decode)
    for other in e.sft_arms:
        if e.rl and other != e.more_imitation and e.same_start(other):
            yield from at_equal_cost(e, f"rl_vs_{other}", f"Reinforcement beats {other} at equal FLOPs", e.rl, other, "greedy")
