"""The judge of preferences.toml: a person who says which of two games White played better, and is often wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from outdo.judges.base import Judge, Options
from outdo.system import randomness
from outdo.types import Score, Trajectory

THROWN = ("material", "illegal", "stalemate")  # results of a game that was thrown away


class NoisyPreference(Judge):
    """The quality of a game plus Gumbel noise of a fixed scale.

    Quality: 1 for mate, -0.5 for a game thrown away, else half of the way to mate that was made (0.5 for a game about to be won).
    The difference of two such noises is logistic, so of two games the better one, by d, is preferred with probability
    sigmoid(d / scale): the Bradley-Terry model.
    """

    name = "noisy_preference"

    class Config(Options):
        """Options of noisy_preference."""

        scale: float = Field(default=0.3, gt=0)

    config: Any

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. The noise depends on the game alone."""
        return [Score(_quality(t) + self.config.scale * _gumbel(t)) for t in trajectories]


def _quality(t: Trajectory) -> float:
    if t.info["result"] == "mate":
        return 1.0
    if t.info["result"] in THROWN or t.info["dtm_end"] < 0:
        return -0.5
    return 0.5 * max(-1.0, 1.0 - float(t.info["dtm_end"]) / float(t.info["dtm_plies"]))


def _gumbel(t: Trajectory) -> float:
    share = (randomness.key("noise", t.prompt_id, t.sample, t.token_ids.tobytes().hex()) + 0.5) / 2**63
    return -math.log(-math.log(share))
