"""Imitation: maximum likelihood of the demonstrated tokens (cross-entropy), averaged over all trained tokens.

    L = -sum_t a_t log pi(y_t) / N          with a_t = 1 for plain imitation

Advantages act as weights, so weighted imitation needs no second file. label_smoothing (Szegedy et al., 1512.00567) takes that
share of a token's target and spreads it over the whole vocabulary:

    L = -sum_t a_t [(1 - s) log pi(y_t) + s mean_v log pi(v)] / N
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Algorithm, Options
from outdo.types import TokenBatch, Total


class Sft(Algorithm):
    """Cross-entropy. Metrics: nll (nats per token)."""

    name = "sft"

    class Config(Options):
        """Options of sft."""

        label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    config: Config

    @property
    def vocabulary(self) -> bool:
        """See `Algorithm.vocabulary`."""
        return self.config.label_smoothing > 0.0

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        nll = -batch.logprobs * batch.advantages
        loss, share = nll.sum() / total.tokens, self.config.label_smoothing
        if share:
            assert batch.vocabulary is not None
            everything = -batch.vocabulary(lambda logprobs, teacher: logprobs.mean(-1)) * batch.advantages
            loss = (1.0 - share) * loss + share * everything.sum() / total.tokens
        return loss, {"nll": nll.detach().sum()}
