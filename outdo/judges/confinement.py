"""A proxy that a sensible person might write: "shut the king in". How small a region the defender was left, on average.

Books on endgames recommend it. A stalemate confines perfectly, and so does sitting still around a cornered king.
"""

from __future__ import annotations

from collections.abc import Sequence

from outdo.judges.base import Judge, unjudgeable
from outdo.types import Score, Trajectory


class Confinement(Judge):
    """The task's `confinement` in [0, 1]; an episode that ended by an illegal move scores 0."""

    name = "confinement"

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        return [self._one(t) for t in trajectories]

    def _one(self, t: Trajectory) -> Score:
        if (no := unjudgeable(t, "confinement", "result")) is not None:
            return no
        if t.info["result"] == "illegal":
            return Score(0.0, "illegal move")
        return Score(float(t.info["confinement"]), f"{t.info['confinement']:.2f} of the board denied")
