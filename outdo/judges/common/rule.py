"""Base of judges that score one completion at a time by a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from outdo.judges.base import Judge, unjudgeable
from outdo.types import Score, Trajectory


class Rule(Judge):
    """rate(t) for each trajectory that has a completion, and the column with what is right if the judge needs one."""

    @property
    def column(self) -> str | None:
        """The column that holds what is right; None: the rule needs none."""
        return getattr(self.config, "column", None)

    def lacks(self, t: Trajectory) -> list[str]:
        """See `Judge.lacks`."""
        return [self.column] if self.column is not None and self.column not in t.info else []

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        facts = ("completion",) if self.column is None else ("completion", self.column)
        return [unjudgeable(t, *facts) or self.rate(t) for t in trajectories]

    @abstractmethod
    def rate(self, t: Trajectory) -> Score:
        """The score of a trajectory that has what the rule needs."""


def no_answer(what: str) -> Score:
    """The lowest score, for a completion that holds no answer in the form that is read."""
    return Score(0.0, f"no answer: {what}", answered=False)


def texts(value: Any) -> list[str]:
    """What is right, as the data says it: one text, a number, or a list of any of these."""
    many = value if isinstance(value, list | tuple) else [value]
    return [str(v) for v in many]
