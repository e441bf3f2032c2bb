"""Distillation from a teacher whose whole distribution is known, on the policy's own samples or on given text.

    reverse:  L = mean_t KL(pi || teacher)     mode-seeking; on own samples: MiniLLM, 2306.08543; Thinking Machines, 2025
    forward:  L = mean_t KL(teacher || pi)     covers all that the teacher may say; on its samples: Hinton et al., 1503.02531
    jsd:      L = mean_t beta KL(teacher || m) + (1 - beta) KL(pi || m),  m = beta teacher + (1 - beta) pi     (GKD, 2306.13649)

top_k: only the teacher's k likeliest tokens are told apart; all others count as one, which bounds the divergence from below.
Deviation from the policy-gradient form of on-policy distillation: the gradient goes through the distributions at every sampled
position, and not through the choice of the samples.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Algorithm, Options
from outdo.types import TokenBatch, Total


class Distillation(Algorithm):
    """Metrics: divergence (the loss, nats a token), agreement (share of positions where both find the same token likeliest)."""

    name = "distillation"

    class Config(Options):
        """Options of distillation."""

        divergence: Literal["reverse", "forward", "jsd"] = "reverse"
        beta: float = Field(default=0.5, gt=0, lt=1)  # of jsd
        top_k: int | None = Field(default=None, ge=1)

    config: Config

    @property
    def vocabulary(self) -> bool:
        """See `Algorithm.vocabulary`."""
        return True

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`; advantages weigh the tokens."""
        assert batch.vocabulary is not None
        divergence, same = batch.vocabulary(self._compared).unbind(-1)
        weighed = divergence * batch.advantages
        return weighed.sum() / total.tokens, {"divergence": weighed.detach().sum(), "agreement": same.detach().sum()}

    def _compared(self, own: Tensor, teacher: Tensor | None) -> Tensor:
        """[n, V] log-probabilities of the policy and of the teacher -> [n, 2]: nats; 1 where both find one token likeliest."""
        assert teacher is not None, "the stage distill hands over the teacher's distributions"
        same = (own.argmax(-1) == teacher.argmax(-1)).float()
        return torch.stack([self._divergence(own, teacher), same], -1)

    def _divergence(self, own: Tensor, taught: Tensor) -> Tensor:
        """[n] nats."""
        c = self.config
        if c.top_k is not None and c.top_k < own.shape[-1]:
            chosen = taught.topk(c.top_k, -1).indices
            own, taught = _with_rest(own, chosen), _with_rest(taught, chosen)
        if c.divergence == "reverse":
            return _kl(own, taught)
        if c.divergence == "forward":
            return _kl(taught, own)
        weights = torch.tensor([c.beta, 1.0 - c.beta], device=own.device).log()
        mixed = torch.logaddexp(taught + weights[0], own + weights[1])
        return c.beta * _kl(taught, mixed) + (1.0 - c.beta) * _kl(own, mixed)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """[n, V] log-probabilities -> [n] sum of p (log p - log q)."""
    return (p.exp() * (p - q)).sum(-1)


def _with_rest(logprobs: Tensor, chosen: Tensor) -> Tensor:
    """[n, V], [n, k] -> [n, k + 1]: the chosen tokens, and all others together."""
    kept = logprobs.gather(-1, chosen)
    rest = torch.log1p(-kept.exp().sum(-1, keepdim=True).clamp(max=1.0 - 1e-6))
    return torch.cat([kept, rest], -1)
