"""KTO, Kahneman-Tversky optimisation (Ethayarajh et al., 2402.01306): single answers, each called good or bad; no pairs.

    r   = log pi(y|x) - log pi_ref(y|x)
    z   = max(0, mean of r over answers put behind other prompts), without gradient: an estimate of KL(pi, ref)
    L   = w_+ (1 - sigmoid(beta (r - z)))   for a good answer,   w_- (1 - sigmoid(beta (z - r)))   for a bad one

Mean over answers. `desirable` and `undesirable` are w_+ and w_-: n_+ w_+ and n_- w_- should be about equal. The stage
`preference` sets `zero` = z before each step.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Algorithm, Options
from outdo.algorithms.common.preferences import ahead
from outdo.types import TokenBatch, Total


class Kto(Algorithm):
    """Learns from answers labelled good (advantage 1) or bad (-1). Metrics: label_accuracy, margin (mean lead to the label)."""

    name = "kto"
    labelled: ClassVar[bool] = True
    zero = 0.0  # z, nats

    class Config(Options):
        """Options of kto."""

        beta: float = Field(default=0.1, gt=0)
        desirable: float = Field(default=1.0, gt=0)
        undesirable: float = Field(default=1.0, gt=0)

    config: Config

    @property
    def reference(self) -> bool:
        """See `Algorithm.reference`."""
        return True

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        assert batch.ref_logprobs is not None
        c, n = self.config, len(batch.lengths())
        zeros = batch.logprobs.new_zeros(n)
        ratio = zeros.index_add(0, batch.sequence, batch.logprobs - batch.ref_logprobs)
        label = zeros.index_add(0, batch.sequence, batch.advantages).sign()
        lead = label * (c.beta * (ratio - self.zero))
        weight = (label > 0) * c.desirable + (label < 0) * c.undesirable
        as_token_sum = total.tokens / total.sequences
        metrics = {"label_accuracy": ahead(lead).sum() * as_token_sum, "margin": lead.detach().sum() * as_token_sum}
        return (weight * (1.0 - lead.sigmoid())).sum() / total.sequences, metrics
