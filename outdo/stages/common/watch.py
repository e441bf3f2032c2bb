"""The pre-flight check goes on while a stage learns from scores: what would waste the rest of its budget is said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from outdo.errors import UserError
from outdo.stages.common.live_audit import LiveAudit
from outdo.types import Group

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop

FEW = 5  # steps in a row that make a pattern
FALLEN = 0.5  # of the first steps' mean reward: below this it has fallen


class Watch:
    """Looks at the metrics of each step. Says each thing once; with `stop_on_collapse` it ends the run instead."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._rewards: list[float] = []
        self._silent = 0
        self._said: set[str] = set()
        self._audit = LiveAudit(loop) if loop.run.recipe.audit and loop.spent < 1.0 else None

    def look(self, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """After each step. Raises UserError if something is wrong and the stage is to stop then."""
        if self._audit is not None:
            self._audit.look(groups, metrics)
        self._rewards.append(metrics["reward"])
        self._silent = self._silent + 1 if metrics["zero_variance_groups"] == 1.0 else 0
        if self._silent >= FEW:
            self._say("no difference", f"in the last {FEW} steps all samples of a group scored the same, so nothing was learned")
        first, last = self._rewards[:FEW], self._rewards[-FEW:]
        if len(self._rewards) >= 2 * FEW and fmean(first) > 0 and fmean(last) < FALLEN * fmean(first):
            self._say("fallen", f"the reward has fallen from {fmean(first):.3g} (the first {FEW} steps) to {fmean(last):.3g}")

    def _say(self, kind: str, what: str) -> None:
        if kind in self._said:
            return
        self._said.add(kind)
        loop = self.loop
        why = (f"stage {loop.name}, step {loop.step}: {what}; lower the learning rate, give a reward with more steps, or imitate "
               "good answers first")
        if loop.config.stop_on_collapse:
            raise UserError(f"{why} (stop_on_collapse = true; the checkpoint before is in {loop.folder / 'checkpoints'})")
        loop.run.show(loop.name, loop.spent, f"warning: {why}\n")
