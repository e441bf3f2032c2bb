"""Group-relative policy optimisation (Shao et al., 2402.03300) with today's defaults.

    A_i = R_i - mean(R)                                  (divided by std(R) with scale = "group")
    r_t = exp(log pi(y_t) - log pi_old(y_t))
    L   = -sum_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) / N

Deviations from the paper: no per-group standard deviation (it favours easy and hard prompts; Liu et al., 2503.20783), token
mean over the whole batch instead of 1/|o_i| (length bias; the same), an asymmetric clip 0.2 / 0.28 and zero-variance groups
left out (Yu et al., 2503.14476, DAPO), and no KL term: for verifiable rewards KL is measured, not penalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Algorithm, Options
from outdo.types import TokenBatch

_SAME = 1e-8  # rewards of a group closer together than this carry no signal


def centred(values: Sequence[float | None]) -> list[float | None] | None:
    """R - mean(R) over the scored members of a group; None if fewer than two are scored or all scores are equal."""
    scored = [v for v in values if v is not None]
    if len(scored) < 2 or max(scored) - min(scored) < _SAME:
        return None
    mean = fmean(scored)
    return [None if v is None else v - mean for v in values]


class Grpo(Algorithm):
    """Clipped, group-relative policy gradient. Metrics: clip_fraction, kl (k3 estimate to the sampling policy, nats)."""

    name = "grpo"

    class Config(Options):
        """Options of grpo."""

        clip_low: float = Field(default=0.2, gt=0, lt=1)
        clip_high: float = Field(default=0.28, gt=0)
        scale: Literal["none", "group"] = "none"  # divide advantages by the group's standard deviation

    config: Config

    def advantages(self, values: Sequence[float | None]) -> list[float | None] | None:
        """See `Algorithm.advantages`."""
        means = centred(values)
        if means is None or self.config.scale == "none":
            return means
        std = pstdev([v for v in values if v is not None])
        return [None if a is None else a / std for a in means]

    def loss(self, batch: TokenBatch, total_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        c, a = self.config, batch.advantages
        log_ratio = batch.logprobs - batch.old_logprobs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - c.clip_low, 1 + c.clip_high)
        objective = torch.minimum(ratio * a, clipped * a)
        with torch.no_grad():
            active = (ratio * a > clipped * a).float()
            k3 = torch.expm1(log_ratio) - log_ratio
        return -objective.sum() / total_tokens, {"clip_fraction": active.sum(), "kl": k3.sum()}
