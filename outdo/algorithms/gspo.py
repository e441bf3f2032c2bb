"""Group sequence policy optimisation (Zheng et al., 2507.18071): one ratio for a whole sequence.

    A_i = (R_i - mean(R)) / std(R)
    s_i = exp(1/|o_i| sum_t (log pi(y_t) - log pi_old(y_t)))
    L   = -1/G sum_i min(s_i A_i, clip(s_i, 1 - 3e-4, 1 + 4e-4) A_i)

The clip is three orders of magnitude narrower than PPO's because the ratio is a mean over the sequence. Deviation: advantages
that differ per token (of a critic) are weighted by the sequence's ratio each, as in the paper's GSPO-token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from outdo.algorithms.common.advantages import Advantages, Values, standardised
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.types import TokenBatch


class Gspo(PolicyGradient):
    """The sequence's ratio is clipped, not the token's."""

    name = "gspo"

    class Config(PolicyGradient.Config):
        """Options of gspo."""

        average: Literal["tokens", "sequences", "constant", "sum"] = "sequences"
        clip_low: float = 3e-4
        clip_high: float = 4e-4

    config: Config

    def advantages(self, values: Values) -> Advantages:
        """(R - mean(R)) / std(R); see `Algorithm.advantages`."""
        return standardised(values)

    def log_ratio(self, batch: TokenBatch) -> Tensor:
        """[N] the mean log-ratio of each token's sequence."""
        lengths, own = batch.lengths(), batch.logprobs - batch.old_logprobs
        means = torch.zeros_like(lengths).index_add(0, batch.sequence, own) / lengths.clamp(min=1)
        return means[batch.sequence]
