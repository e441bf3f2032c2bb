"""Won or not, as the task itself says: 1 for the result that counts as a win, else 0. The gold judge of games."""

from __future__ import annotations

from collections.abc import Sequence

from outdo.judges.base import Judge, Options, unjudgeable
from outdo.types import Score, Trajectory


class Outcome(Judge):
    """Reads `info["result"]`. An episode that broke, or that has no result, cannot be judged."""

    name = "outcome"

    class Config(Options):
        """Options of outcome."""

        win: str = "mate"  # the result that scores 1

    config: Config

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        return [self._one(t) for t in trajectories]

    def _one(self, t: Trajectory) -> Score:
        if (no := unjudgeable(t, "result")) is not None:
            return no
        return Score(1.0 if t.info["result"] == self.config.win else 0.0, str(t.info["result"]))
