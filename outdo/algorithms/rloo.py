"""RLOO, REINFORCE leave-one-out for language models (Ahmadian et al., 2402.14740).

    A_i = R_i - mean_{j != i} R_j,   R_i = score - kl * sum_t (log pi(y_t) - log pi_ref(y_t))
    L   = -1/G sum_i A_i sum_t log pi(y_t)

The whole completion is one action, so its log-probabilities are summed and no length divides. Deviation: `kl` is 0 unless set
(the paper's summarisation used 0.03).
"""

from __future__ import annotations

from typing import Literal

from outdo.algorithms.reinforce import Reinforce


class Rloo(Reinforce):
    """reinforce with sums over sequences and the KL penalty in the reward."""

    name = "rloo"

    class Config(Reinforce.Config):
        """Options of rloo."""

        average: Literal["tokens", "sequences", "constant", "sum"] = "sum"
        kl_in: Literal["loss", "reward"] = "reward"

    config: Config
