"""The control: a coin flip that knows nothing about the episode. Whatever a policy gains under it, the judge did not teach.

(Spurious rewards helped some models on some tasks: Shao et al., 2506.10947. A control says whether this is one of them.)
"""

from __future__ import annotations

from collections.abc import Sequence

from outdo.judges.base import Judge, Options, unjudgeable
from outdo.system import randomness
from outdo.types import Score, Trajectory


class RandomReward(Judge):
    """1 with the given probability, decided by the prompt, the sample and the policy version alone."""

    name = "random_reward"

    class Config(Options):
        """Options of random_reward."""

        probability: float = 0.5
        seed: int = 0

    config: Config

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        return [unjudgeable(t) or Score(float(self._draw(t) < self.config.probability), "coin flip") for t in trajectories]

    def _draw(self, t: Trajectory) -> float:
        return randomness.key(self.config.seed, t.prompt_id, t.sample, t.policy_version) / 2**63
