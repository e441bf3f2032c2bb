"""REINFORCE with a leave-one-out baseline (Kool et al., 2019; Ahmadian et al., 2402.14740 "RLOO").

    A_i = R_i - mean_{j != i} R_j
    L   = -sum_t A_t log pi(y_t) / N

Deviation from the papers: tokens are averaged over the whole batch, not per sequence. The gradient is only right for
on-policy data: use one minibatch per rollout.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from outdo.algorithms.base import Algorithm
from outdo.algorithms.grpo import centred
from outdo.types import TokenBatch


class Reinforce(Algorithm):
    """Policy gradient without a ratio. Metrics: objective (sum of A log pi)."""

    name = "reinforce"

    def advantages(self, values: Sequence[float | None]) -> list[float | None] | None:
        """R_i minus the mean of the others; see `Algorithm.advantages`."""
        scored = sum(v is not None for v in values)
        means = centred(values)
        if means is None:
            return None
        return [None if a is None else a * scored / (scored - 1) for a in means]

    def loss(self, batch: TokenBatch, total_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        objective = batch.logprobs * batch.advantages
        return -objective.sum() / total_tokens, {"objective": objective.detach().sum()}
