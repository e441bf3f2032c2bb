"""PPO, proximal policy optimisation with a critic (Schulman et al., 1707.06347), as used for language models (2203.02155).

    delta_t = gamma V_{t+1} - V_t - kl_t,  gamma V_{n+1} = R     A_t = sum_k (gamma lambda)^k delta_{t+k}     target: A_t + V_t
    L       = -sum_t min(r_t A_t, clip(r_t, 1 - 0.2, 1 + 0.2) A_t) / N + 0.5 sum_t (V_t - target_t)^2 / N

Advantages are standardised over the batch's tokens. Groups may have a single sample: no group mean is used, and none is skipped.
The critic is a linear reading of the policy's own hidden states (`models/critic.py`), whose error trains the model as well. As
a model of its own it reads a copy of the stage's start, which its error alone trains (`docs/algorithms/gae.md`).
Deviations: the value's own clip is left out (it does not help: Andrychowicz et al., 2006.05990).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from outdo.algorithms.common.advantages import Advantages, Values
from outdo.algorithms.common.critic import CriticOptions, WithCritic
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.algorithms.gae import generalised
from outdo.algorithms.reinforce_pp import whitened
from outdo.types import FloatArray


class Ppo(WithCritic, PolicyGradient):
    """Clipped policy gradient on a critic's advantages. Metrics: those of the others, and the trainer's value_error."""

    name = "ppo"

    class Config(PolicyGradient.Config, CriticOptions):
        """Options of ppo."""

        lam: float = Field(default=0.95, ge=0, le=1)
        gamma: float = Field(default=1.0, gt=0, le=1)
        clip_high: float = 0.2
        kl_in: Literal["loss", "reward"] = "reward"

    config: Config

    def advantages(self, values: Values) -> Advantages:
        """The scores themselves: the critic is the baseline. See `Algorithm.advantages`."""
        return list(values) if any(v is not None for v in values) else None

    def per_token(self, outcome: float, group_mean: float, values: FloatArray,
                  penalty: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """See `Algorithm.per_token`."""
        return generalised(values, outcome, self.config.lam, self.config.gamma, penalty)

    def normalise(self, advantages: Sequence[FloatArray]) -> list[FloatArray]:
        """See `Algorithm.normalise`."""
        return whitened(advantages)
