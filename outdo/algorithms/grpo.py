"""Group-relative policy optimisation (Shao et al., 2402.03300) with today's defaults.

    A_i = R_i - mean(R)                                  (divided by std(R) with scale = "group")
    r_t = exp(log pi(y_t) - log pi_old(y_t))
    L   = -sum_t min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t) / N

Deviations from the paper: no per-group standard deviation (it favours easy and hard prompts; Liu et al., 2503.20783), token
mean over the whole batch instead of 1/|o_i| (length bias; the same), an asymmetric clip 0.2 / 0.28 and zero-variance groups
left out (Yu et al., 2503.14476, DAPO), and no KL term: for verifiable rewards KL is measured, not penalised. `grpo_paper` is
the algorithm as published.
"""

from __future__ import annotations

from typing import Literal

from outdo.algorithms.common.advantages import Advantages, Values, centred, standardised
from outdo.algorithms.common.policy_gradient import PolicyGradient


class Grpo(PolicyGradient):
    """Clipped, group-relative policy gradient."""

    name = "grpo"

    class Config(PolicyGradient.Config):
        """Options of grpo."""

        scale: Literal["none", "group"] = "none"  # divide advantages by the group's standard deviation

    config: Config

    def advantages(self, values: Values) -> Advantages:
        """See `Algorithm.advantages`."""
        return centred(values) if self.config.scale == "none" else standardised(values)
