"""rl: sample completions, score them, and reinforce those that scored above their group's mean.

The signal is sparse, one score for a whole completion, and every token of it is paid for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from outdo.plugins import Plugin
from outdo.stages.common.rollouts import RolloutConfig, Rollouts, credit, describe, gather, learn
from outdo.stages.common.watch import Watch
from outdo.types import Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop


class Rl(Rollouts):
    """Policy gradient on the judge's score."""

    class Config(RolloutConfig):
        """Options of a stage with kind = "rl"."""

        kind: Literal["rl"] = "rl"
        algorithm: Plugin = Plugin(name="grpo")

    def run(self, loop: Loop) -> None:
        """Rollouts -> scores -> advantages -> a few optimiser steps, until the budget is spent."""
        watch = Watch(loop)
        for step in loop.steps():
            groups, usage = gather(loop, step)
            samples, discarded = credit(groups, loop.algorithm, self.config.mask_truncated)
            usage += Usage(discarded_tokens=discarded)
            trained, spent = learn(loop, samples, step)
            loop.keep_rollouts("train", groups[:1])
            seen = describe(groups)
            loop.book(usage + spent, {**seen, **loop.judge.logged(), **trained})
            watch.look(seen, groups)
