"""Identity preference optimisation (Azar et al., 2310.12036): a squared distance that stops pushing once a pair is told apart.

    h = (log pi(y_w|x) - log pi_ref(y_w|x)) / |y_w| - (log pi(y_l|x) - log pi_ref(y_l|x)) / |y_l|
    L = (h - 1 / (2 beta))^2                                   mean over pairs

Deviation from the paper: log-ratios are means over tokens, as its authors and TRL compute it; sums favour long answers.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Options
from outdo.algorithms.common.preferences import Pairs, Preferences


class Ipo(Preferences):
    """DPO with a bounded target for the margin."""

    name = "ipo"

    class Config(Options):
        """Options of ipo."""

        beta: float = Field(default=0.1, gt=0)  # the lead aimed at is 1 / (2 beta) nats a token

    config: Config

    @property
    def reference(self) -> bool:
        """See `Algorithm.reference`."""
        return True

    def losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Preferences.losses`."""
        (chosen, rejected), (n, m) = pairs.log_ratios, pairs.lengths
        lead = chosen / n.clamp(min=1) - rejected / m.clamp(min=1)
        return (lead - 1.0 / (2.0 * self.config.beta)).square(), self.config.beta * lead
