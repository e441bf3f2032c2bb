"""DAPO, decoupled clip and dynamic sampling policy optimisation (Yu et al., 2503.14476).

    A_i = (R_i - mean(R)) / std(R)
    L   = -sum_t min(r_t A_t, clip(r_t, 1 - 0.2, 1 + 0.28) A_t) / N

with the token mean over the whole batch and a clip that leaves more room upwards. Its other two parts are options elsewhere:
dynamic sampling is the stage's `dynamic_sampling` (its cost is booked), overlong reward shaping is the judge `length`.
"""

from __future__ import annotations

from outdo.algorithms.common.advantages import Advantages, Values, standardised
from outdo.algorithms.common.policy_gradient import PolicyGradient


class Dapo(PolicyGradient):
    """Standardised advantages, a higher upper clip, a mean over tokens."""

    name = "dapo"

    def advantages(self, values: Values) -> Advantages:
        """(R - mean(R)) / std(R); see `Algorithm.advantages`."""
        return standardised(values)
