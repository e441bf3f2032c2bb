"""A proxy that a sensible person might write: "attack the king". The share of the policy's moves that give check.

It is right about every mate (the last move gives check) and wrong about what leads there: checking for ever pays more.
"""

from __future__ import annotations

from collections.abc import Sequence

from outdo.judges.base import Judge, unjudgeable
from outdo.types import Score, Trajectory


class GivesCheck(Judge):
    """checks / own moves, in [0, 1]; an illegal move counts as a move without check."""

    name = "gives_check"

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        return [self._one(t) for t in trajectories]

    def _one(self, t: Trajectory) -> Score:
        if (no := unjudgeable(t, "checks", "moves", "result")) is not None:
            return no
        moves = int(t.info["moves"]) + (t.info["result"] == "illegal")
        return Score(int(t.info["checks"]) / max(moves, 1), f"{t.info['checks']} checks in {moves} moves")
