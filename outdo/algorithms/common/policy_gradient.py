"""The policy gradient that the on-policy algorithms are variants of: advantage, ratio, clipping and averaging are separate parts.

    A          `advantages` of a group, then `normalise` over the whole batch
    r_t        `log_ratio`: of a token, or of its whole sequence
    objective  `objective`: PPO's clipped r_t A_t unless an algorithm says otherwise
    L          -(mean of the objective) + kl * (mean divergence from the reference) - entropy * (mean entropy)

An algorithm overrides the parts in which it differs; docs/algorithms.md is the table of these. Option `average`: "tokens" is the
mean over all trained tokens of the optimiser step, "sequences" the mean over sequences of the mean over each one's tokens,
"constant" divides a sequence's sum by a fixed number of tokens, "sum" does not divide it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Algorithm, Options
from outdo.algorithms.common.advantages import Advantages, Values, centred
from outdo.types import FloatArray, TokenBatch, Total

_GAIN, _LARGEST_CHANGE = 0.1, 0.2  # of the adaptive coefficient, a step (Ziegler et al., 1909.08593, section 2.2)


class PolicyGradient(Algorithm):
    """Metrics: clip_fraction; kl (k3 estimate to the sampling policy, nats a token); kl_reference, entropy_bonus where used."""

    class Config(Options):
        """What all of them have."""

        clip_low: float = Field(default=0.2, gt=0, lt=1)
        clip_high: float = Field(default=0.28, gt=0)
        average: Literal["tokens", "sequences", "constant", "sum"] = "tokens"
        length: int = Field(default=256, ge=1)  # tokens that average = "constant" divides a sequence by
        kl: float = Field(default=0.0, ge=0)  # weight of the KL divergence from the reference policy; 0: no reference is kept
        kl_in: Literal["loss", "reward"] = "loss"
        kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # of the penalty in the loss; in the reward it is k1
        kl_target: float | None = Field(default=None, gt=0)  # nats a token that `kl` is adapted to hold; None: it stays
        reference_every: int | None = Field(default=None, ge=1)  # steps after which the reference becomes the policy; None: never
        entropy: float = Field(default=0.0, ge=0)  # weight of the mean entropy that is added to the objective

    config: Config

    def __init__(self, config: Options | None = None) -> None:
        super().__init__(config)
        self.kl = self.config.kl

    # --- what an algorithm may change ---------------------------------------------------------------------------------

    def advantages(self, values: Values) -> Advantages:
        """R - mean(R); see `Algorithm.advantages`."""
        return centred(values)

    def log_ratio(self, batch: TokenBatch) -> Tensor:
        """[N] log pi(y_t) - log pi_old(y_t)."""
        return batch.logprobs - batch.old_logprobs

    def objective(self, log_ratio: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """[N] what is maximised: min(r A, clip(r) A); [N] bool, where the clip holds the policy back."""
        c, a = self.config, batch.advantages
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - c.clip_low, 1 + c.clip_high)
        return torch.minimum(ratio * a, clipped * a), ratio * a > clipped * a

    # --- what they share ----------------------------------------------------------------------------------------------

    @property
    def reference(self) -> bool:
        """See `Algorithm.reference`."""
        return self.config.kl > 0.0

    @property
    def reference_every(self) -> int | None:
        """See `Algorithm.reference_every`."""
        return self.config.reference_every

    @property
    def vocabulary(self) -> bool:
        """See `Algorithm.vocabulary`."""
        return self.config.entropy > 0.0

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        c = self.config
        log_ratio = self.log_ratio(batch)
        objective, held = self.objective(log_ratio, batch)
        loss = -self.mean(objective, batch, total)
        with torch.no_grad():
            own = batch.logprobs - batch.old_logprobs
            metrics = {"clip_fraction": held.float().sum(), "kl": (torch.expm1(own) - own).sum()}
        if self.reference:
            assert batch.ref_logprobs is not None, "the stage keeps a reference where an algorithm asks for one"
            metrics["kl_reference"] = (batch.logprobs - batch.ref_logprobs).detach().sum()
            if c.kl_in == "loss":
                loss = loss + self.kl * self.mean(divergence(batch, c.kl_estimator), batch, total)
        if c.entropy > 0.0:
            assert batch.vocabulary is not None
            entropy = batch.vocabulary(lambda logprobs, teacher: -(logprobs.exp() * logprobs).sum(-1))
            loss = loss - c.entropy * self.mean(entropy, batch, total)
            metrics["entropy_bonus"] = entropy.detach().sum()
        return loss, metrics

    def mean(self, x: Tensor, batch: TokenBatch, total: Total) -> Tensor:
        """[N] -> this micro-batch's share of the mean over the step, averaged as `average` says."""
        c = self.config
        if c.average == "tokens":
            return x.sum() / total.tokens
        if c.average == "sequences":
            return (x / batch.lengths()[batch.sequence]).sum() / total.sequences
        return x.sum() / total.sequences / (c.length if c.average == "constant" else 1)

    def penalty(self, logprobs: FloatArray, ref_logprobs: FloatArray) -> FloatArray | None:
        """See `Algorithm.penalty`: kl * (log pi - log pi_ref) of each token where the KL penalty is in the reward."""
        if not (self.reference and self.config.kl_in == "reward"):
            return None
        return (self.kl * (logprobs - ref_logprobs)).astype(np.float32)

    def observe(self, metrics: dict[str, float]) -> None:
        """See `Algorithm.observe`: the coefficient rises while the divergence is above its target, and falls below it."""
        target = self.config.kl_target
        if target is not None and "kl_reference" in metrics:
            error = metrics["kl_reference"] / target - 1.0
            self.kl *= 1.0 + _GAIN * min(max(error, -_LARGEST_CHANGE), _LARGEST_CHANGE)
            metrics["kl_coefficient"] = self.kl

    def state(self) -> dict[str, float]:
        """See `Algorithm.state`."""
        return {"kl": self.kl}

    def load_state(self, state: dict[str, float]) -> None:
        """See `Algorithm.load_state`."""
        self.kl = state.get("kl", self.kl)


def divergence(batch: TokenBatch, estimator: str) -> Tensor:
    """[N] estimates of KL(pi, reference) in nats a token, from the sampled tokens (Schulman, 2020).

    k1 is unbiased and has no gradient in expectation, k2 has the right gradient, k3 is unbiased and never negative.
    """
    assert batch.ref_logprobs is not None
    log_ratio = batch.logprobs - batch.ref_logprobs
    if estimator == "k1":
        return log_ratio
    return 0.5 * log_ratio.square() if estimator == "k2" else torch.expm1(-log_ratio) + log_ratio
