"""Imitation: maximum likelihood of the demonstrated tokens (cross-entropy), averaged over all trained tokens.

    L = -sum_t a_t log pi(y_t) / N          with a_t = 1 for plain imitation

Advantages act as weights, so a weighted imitation needs no second file.
"""

from __future__ import annotations

from torch import Tensor

from outdo.algorithms.base import Algorithm
from outdo.types import TokenBatch


class Sft(Algorithm):
    """Cross-entropy. Metrics: nll (nats per token)."""

    name = "sft"

    def loss(self, batch: TokenBatch, total_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        nll = -batch.logprobs * batch.advantages
        return nll.sum() / total_tokens, {"nll": nll.detach().sum()}
