"""What algorithms with a critic share: which model it reads, and how fast that one learns."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from outdo.algorithms.base import Algorithm, Options


class CriticOptions(Options):
    """Options of algorithms with a critic."""

    # What the critic reads: "head" the policy's own hidden states, "model" those of a copy of the stage's start, which it trains.
    critic: Literal["head", "model"] = "head"
    critic_lr_scale: float = Field(default=1.0, gt=0)  # of that copy, times the stage's learning rates


class WithCritic(Algorithm):
    """`per_token` hands out the score, by values that a critic learns."""

    critic: ClassVar[bool] = True
    config: CriticOptions

    @property
    def critic_model(self) -> bool:
        """See `Algorithm.critic_model`."""
        return self.config.critic == "model"

    @property
    def critic_lr_scale(self) -> float:
        """See `Algorithm.critic_lr_scale`."""
        return self.config.critic_lr_scale
