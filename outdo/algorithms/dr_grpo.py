"""Dr. GRPO, "GRPO done right" (Liu et al., 2503.20783): neither the group's standard deviation nor the answer's length divides.

    A_i = R_i - mean(R)
    L   = -1/G sum_i 1/length sum_t min(r_t A_i, clip(r_t, 1 - 0.2, 1 + 0.2) A_i)

`length` is a constant, the paper's longest completion. Deviation: groups whose scores are all equal are left out; they would
add nothing but to the number of sequences that divides.
"""

from __future__ import annotations

from typing import Literal

from outdo.algorithms.common.policy_gradient import PolicyGradient


class DrGrpo(PolicyGradient):
    """Group mean as the baseline, a constant as the divisor."""

    name = "dr_grpo"

    class Config(PolicyGradient.Config):
        """Options of dr_grpo."""

        average: Literal["tokens", "sequences", "constant", "sum"] = "constant"
        clip_high: float = 0.2

    config: Config
