"""Dynamic fine-tuning (Wu et al., 2508.05629): cross-entropy whose tokens weigh by their own probability.

    L = -sum_t sg(pi(y_t)) a_t log pi(y_t) / N

Read as a policy gradient, cross-entropy rewards a token by 1 / pi(y_t): rare tokens pull hardest. The stop-gradient weight sg(pi)
takes that out. a_t are the rows' own weights, 1 for plain imitation.
"""

from __future__ import annotations

from torch import Tensor

from outdo.algorithms.base import Algorithm
from outdo.types import TokenBatch, Total


class Dft(Algorithm):
    """Cross-entropy rectified by the probability. Metrics: nll (nats per token, not rectified)."""

    name = "dft"

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        nll = -batch.logprobs * batch.advantages
        return (batch.logprobs.detach().exp() * nll).sum() / total.tokens, {"nll": nll.detach().sum()}
