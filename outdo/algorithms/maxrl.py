"""MaxRL, maximum-likelihood reinforcement learning (2602.02710): the group mean divides, so rare successes weigh more.

    A_i = (R_i - mean(R)) / mean(R)
    L   = -sum_t min(r_t A_t, clip(r_t, 1 - 0.2, 1 + 0.28) A_t) / N

For a score of 0 or 1 this estimates the gradient of log P(success) in place of P(success): a prompt solved once in sixteen tries
pushes as hard as sixteen times its share. Scores must not be negative. Deviations: PPO's clip and the token mean, as in `grpo`.
"""

from __future__ import annotations

from outdo.algorithms.common.advantages import Advantages, Values, over_mean
from outdo.algorithms.common.policy_gradient import PolicyGradient


class MaxRl(PolicyGradient):
    """Advantages relative to the group's mean score."""

    name = "maxrl"

    def advantages(self, values: Values) -> Advantages:
        """(R - mean(R)) / mean(R); see `Algorithm.advantages`."""
        return over_mean(values)
