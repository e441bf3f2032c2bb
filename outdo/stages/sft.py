"""sft: imitate the answers in rows of data, or a player's moves, with cross-entropy. Dense signal: every token is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from outdo.errors import check
from outdo.judges.base import make_judge
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.stages.base import Given
from outdo.stages.common.imitation import Imitation, ImitationConfig
from outdo.tasks.base import Task
from outdo.types import Trajectory

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop


class Sft(Imitation):
    """Supervised fine-tuning on all demonstrations, or only on the episodes that the player won."""

    class Config(ImitationConfig):
        """Options of a stage with kind = "sft"."""

        kind: Literal["sft"] = "sft"
        keep: Literal["all", "won"] = "all"
        algorithm: Plugin = Plugin(name="sft")  # or dft
        weights: str | None = None  # column of the data that says how much each row counts
        judge: Plugin | None = None  # rows of data are imitated only if it scores them at least `threshold`
        threshold: float = 1.0

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """Rows of data are neither won nor lost."""
        check(self.config.data is None or self.config.keep == "all", f"stage.{name}.keep = 'won' goes with a player's episodes; "
              "rows of data are neither won nor lost: leave out keep, or data")
        for key in ("weights", "judge"):
            check(self.config.data is not None or getattr(self.config, key) is None, f"stage.{name}.{key} goes with rows of "
                  "data; a player's episodes are all alike: leave it out, or name data")
        if self.config.judge is not None:
            make_judge(self.config.judge).score([])
        super().check(name, recipe, task, given)

    def kept(self, loop: Loop, episodes: list[Trajectory]) -> list[Trajectory]:
        """All of them, or those that the gold judge calls won."""
        if self.config.keep == "all":
            return episodes
        return [t for t in episodes if loop.run.gold.score([t])[0].value == 1.0]
