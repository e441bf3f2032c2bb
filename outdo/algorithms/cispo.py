"""CISPO, clipped importance-sampling weights (MiniMax-M1, 2506.13585, eq. 4; ScaleRL, 2510.13786).

    A_i = (R_i - mean(R)) / std(R)
    L   = -sum_t sg(min(r_t, 1 + high)) A_t log pi(y_t) / N

sg stops the gradient: the ratio is a weight, so every token keeps its gradient and none is dropped by the clip. Deviation: no
lower clip, as in the paper's experiments.
"""

from __future__ import annotations

from torch import Tensor

from outdo.algorithms.common.advantages import Advantages, Values, standardised
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.types import TokenBatch


class Cispo(PolicyGradient):
    """REINFORCE whose importance weights are capped. clip_fraction: tokens whose weight the cap lowers."""

    name = "cispo"

    class Config(PolicyGradient.Config):
        """Options of cispo."""

        clip_high: float = 4.0  # the largest weight is 5, as in ScaleRL

    config: Config

    def advantages(self, values: Values) -> Advantages:
        """(R - mean(R)) / std(R); see `Algorithm.advantages`."""
        return standardised(values)

    def objective(self, log_ratio: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """[N] weight * A * log pi; [N] bool, where the weight is capped."""
        ratio, cap = log_ratio.detach().exp(), 1.0 + self.config.clip_high
        return ratio.clamp(max=cap) * batch.advantages * batch.logprobs, ratio > cap
