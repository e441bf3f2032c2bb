"""REINFORCE++ (Hu et al., 2501.03262): advantages standardised over the whole batch instead of within a group.

    R_i = score - kl * sum_t (log pi(y_t) - log pi_ref(y_t))
    A_i = R_i                                            (baseline = "group": R_i - mean(R), "REINFORCE++-baseline")
    A_i <- (A_i - mean over the batch's tokens) / std over the batch's tokens
    L   = -sum_t min(r_t A_t, clip(r_t, 1 - 0.2, 1 + 0.2) A_t) / N

It needs no second sample of a prompt, but groups may be as small as one. Deviations: the KL penalty is summed over the sequence
and not from each token on, and `kl` is 0 unless set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from outdo.algorithms.common.advantages import Advantages, Values, centred
from outdo.algorithms.common.policy_gradient import PolicyGradient
from outdo.types import FloatArray


class ReinforcePp(PolicyGradient):
    """Advantages relative to the batch."""

    name = "reinforce_pp"

    class Config(PolicyGradient.Config):
        """Options of reinforce_pp."""

        baseline: Literal["none", "group"] = "none"
        clip_high: float = 0.2
        kl_in: Literal["loss", "reward"] = "reward"

    config: Config

    def advantages(self, values: Values) -> Advantages:
        """The scores themselves, or centred within the group; see `Algorithm.advantages`."""
        if self.config.baseline == "group":
            return centred(values)
        return list(values) if any(v is not None for v in values) else None

    def normalise(self, advantages: Sequence[FloatArray]) -> list[FloatArray]:
        """See `Algorithm.normalise`."""
        return whitened(advantages)


def whitened(advantages: Sequence[FloatArray]) -> list[FloatArray]:
    """Mean 0 and standard deviation 1 over all tokens; zeros where all are equal."""
    together = np.concatenate([*advantages, np.zeros(0, np.float32)]).astype(np.float64)
    if not len(together):
        return list(advantages)
    mean, std = together.mean(), together.std()
    return [((a - mean) / std if std > 1e-8 else np.zeros_like(a)).astype(np.float32) for a in advantages]
