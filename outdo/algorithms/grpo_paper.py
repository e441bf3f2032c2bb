"""Group-relative policy optimisation as published (Shao et al., 2402.03300, eq. 3 and 4).

    A_i = (R_i - mean(R)) / std(R)
    L   = -1/G sum_i 1/|o_i| sum_t [min(r_t A_i, clip(r_t, 1 - 0.2, 1 + 0.2) A_i) - 0.04 * k3_t]

k3 estimates the KL divergence from the policy that the stage began with. Deviations: the mean over groups is a mean over all
sequences of the optimiser step, and groups whose scores are all equal are left out (their advantages are 0; the paper keeps
their KL term). Known faults of this form, which `grpo` does not have: short wrong answers weigh more than long ones, and prompts
that are nearly always or never solved weigh more than others (2503.20783).
"""

from __future__ import annotations

from typing import Literal

from outdo.algorithms.grpo import Grpo


class GrpoPaper(Grpo):
    """grpo with the published advantage, averaging and KL penalty."""

    name = "grpo_paper"

    class Config(Grpo.Config):
        """Options of grpo_paper."""

        scale: Literal["none", "group"] = "group"
        average: Literal["tokens", "sequences", "constant", "sum"] = "sequences"
        clip_high: float = 0.2
        kl: float = 0.04

    config: Config
