"""SimPO, simple preference optimisation (Meng et al., 2405.14734): no reference, and a length-normalised reward with a margin.

    m = beta / |y_w| log pi(y_w|x) - beta / |y_l| log pi(y_l|x)
    L = -log sigmoid(m - gamma)                                mean over pairs
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Options
from outdo.algorithms.common.preferences import Pairs, Preferences, logistic


class SimPo(Preferences):
    """Pairs told apart by their mean log-probability."""

    name = "simpo"

    class Config(Options):
        """Options of simpo."""

        beta: float = Field(default=2.0, gt=0)
        gamma: float = Field(default=1.0, ge=0)  # lead that a chosen answer should have

    config: Config

    def losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Preferences.losses`."""
        n, m = pairs.lengths
        margin = self.config.beta * (pairs.chosen / n.clamp(min=1) - pairs.rejected / m.clamp(min=1))
        return logistic(margin - self.config.gamma), margin
