"""What algorithms on pairs of answers share: sums over sequences, one difference for each pair, means over pairs."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from outdo.algorithms.base import Algorithm
from outdo.algorithms.common.advantages import Advantages, Values, centred
from outdo.types import TokenBatch, Total


class Preferences(Algorithm):
    """Learns from pairs: the sequences of a micro-batch are chosen, rejected, chosen, rejected, ...

    Metrics, as means over pairs: pair_accuracy (share of pairs in which the chosen answer's implicit reward is higher) and margin
    (its mean lead).
    """

    paired: ClassVar[bool] = True

    def advantages(self, values: Values) -> Advantages:
        """Of a group of samples: 1 for the best, -1 for the worst, None for the others. See `Algorithm.advantages`."""
        if centred(values) is None:
            return None
        known = [i for i, v in enumerate(values) if v is not None]
        best, worst = max(known, key=lambda i: values[i] or 0.0), min(known, key=lambda i: values[i] or 0.0)
        return [1.0 if i == best else -1.0 if i == worst else None for i in range(len(values))]

    def losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """[pairs] losses, and [pairs] leads of the chosen answer's implicit reward."""
        raise NotImplementedError

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        pairs = Pairs(batch)
        losses, margin = self.losses(pairs)
        share = 2.0 / total.sequences  # of one pair in a mean over pairs
        as_token_sum = share * total.tokens
        metrics = {"pair_accuracy": ahead(margin).sum() * as_token_sum, "margin": margin.detach().sum() * as_token_sum}
        return losses.sum() * share, metrics


class Pairs:
    """A micro-batch seen as pairs. All fields are float32 [pairs]."""

    def __init__(self, batch: TokenBatch) -> None:
        self._swap = two(batch.advantages, batch.sequence)[0] < 0  # the rejected answer comes first
        self.lengths = self._ordered(torch.ones_like(batch.logprobs), batch.sequence)
        self.chosen, self.rejected = self._ordered(batch.logprobs, batch.sequence)
        self.ref_chosen = self.ref_rejected = torch.zeros_like(self.chosen)
        if batch.ref_logprobs is not None:
            self.ref_chosen, self.ref_rejected = self._ordered(batch.ref_logprobs, batch.sequence)

    def _ordered(self, x: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
        first, second = two(x, sequence)
        return torch.where(self._swap, second, first), torch.where(self._swap, first, second)

    @property
    def log_ratios(self) -> tuple[Tensor, Tensor]:
        """log pi - log pi_ref of the chosen and of the rejected answer."""
        return self.chosen - self.ref_chosen, self.rejected - self.ref_rejected


def two(x: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
    """[N] -> sums over the first and over the second sequence of each pair, [pairs] each."""
    n = (int(sequence.max()) + 2) // 2 * 2 if len(sequence) else 0
    first, second = x.new_zeros(n).index_add(0, sequence, x).view(-1, 2).unbind(1)
    return first, second


def ahead(lead: Tensor) -> Tensor:
    """1 where a lead is positive, one half where there is none (as before the first step), else 0."""
    return (lead > 0).float() + 0.5 * (lead == 0).float()


def logistic(margin: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(margin), of which a share `smoothing` takes the label to be wrong."""
    return -(1.0 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
