"""gae: grpo with a critic that hands the result of an episode out move by move.

Generalised advantage estimation (Schulman et al., 1506.02438) with the clipped objective of PPO (1707.06347). With outcome
R at the end of an episode of n sampled tokens and the critic's values V_1 .. V_n in front of them:

    delta_t = V_{t+1} - V_t,  V_{n+1} = R        A_t = sum_k lambda^k delta_{t+k}        target of V_t: A_t + V_t

A token's penalty (KL in the reward) is subtracted from its delta. Deviations: no discount; groups whose scores are all equal are
skipped as in grpo; V_1 is not the critic's but the mean score of the group, which estimates the same thing from as many tries of
the very same start. `ppo` is the same with the critic alone.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from outdo.algorithms.common.critic import CriticOptions, WithCritic
from outdo.algorithms.grpo import Grpo
from outdo.types import FloatArray


class Gae(WithCritic, Grpo):
    """Clipped policy gradient with generalised advantages. Metrics as grpo's, and the trainer's value_error."""

    name = "gae"

    class Config(Grpo.Config, CriticOptions):
        """Options of gae."""

        lam: float = Field(default=0.95, ge=0, le=1)  # 1: the outcome minus the value; less: trust the critic more

    config: Config

    def per_token(self, outcome: float, group_mean: float, values: FloatArray,
                  penalty: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """See `Algorithm.per_token`."""
        return generalised(np.concatenate([[group_mean], values[1:]]), outcome, self.config.lam, 1.0, penalty)


def generalised(values: FloatArray, outcome: float, lam: float, gamma: float,
                penalty: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
    """Advantages [n] and targets [n] from the values [n] before each token and the outcome behind the last."""
    deltas = gamma * np.append(values[1:], outcome / gamma) - values
    if penalty is not None:
        deltas = deltas - penalty
    advantages = np.zeros(len(values), np.float32)
    running = 0.0
    for t in reversed(range(len(values))):
        running = float(deltas[t]) + gamma * lam * running
        advantages[t] = running
    return advantages, (advantages + values).astype(np.float32)
