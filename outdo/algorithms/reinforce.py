"""REINFORCE with a leave-one-out baseline (Kool et al., 2019).

    A_i = R_i - mean_{j != i} R_j
    L   = -sum_t A_t log pi(y_t) / N

Tokens are averaged over the whole batch; `rloo` sums each sequence, as published. The gradient is only right for on-policy
data: use one minibatch per rollout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outdo.algorithms.common.advantages import Advantages, Values, left_out
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.types import TokenBatch


class Reinforce(PolicyGradient):
    """Policy gradient without a ratio: nothing is clipped."""

    name = "reinforce"

    def advantages(self, values: Values) -> Advantages:
        """R_i minus the mean of the others; see `Algorithm.advantages`."""
        return left_out(values)

    def objective(self, log_ratio: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """[N] A log pi; nothing is clipped."""
        return batch.logprobs * batch.advantages, torch.zeros_like(batch.logprobs, dtype=torch.bool)
