"""The judge of preferences.toml: a person who says which of two games White played better, and is often wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from outdo.judges.base import Judge, Options
from outdo.system import randomness
from outdo.types import Score, Trajectory

QUALITY = {"mate": 1.0, "material": -0.5, "illegal": -0.5}  # of the result; 0 for every other draw


class NoisyPreference(Judge):
    """The quality of a game plus Gumbel noise of a fixed scale.

    The difference of two such noises is logistic, so of two games the better one, by d, is preferred with probability
    sigmoid(d / scale): the Bradley-Terry model. A mate against a draw is called rightly in 88 % of the cases at scale 0.5.
    """

    name = "noisy_preference"

    class Config(Options):
        """Options of noisy_preference."""

        scale: float = Field(default=0.5, gt=0)

    config: Any

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. The noise depends on the game alone."""
        return [Score(QUALITY.get(str(t.info["result"]), 0.0) + self.config.scale * _gumbel(t)) for t in trajectories]


def _gumbel(t: Trajectory) -> float:
    share = (randomness.key("noise", t.prompt_id, t.sample, t.token_ids.tobytes().hex()) + 0.5) / 2**63
    return -math.log(-math.log(share))
