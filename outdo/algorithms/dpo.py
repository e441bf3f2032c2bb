"""Direct preference optimisation (Rafailov et al., 2305.18290).

    m = beta * [(log pi(y_w|x) - log pi_ref(y_w|x)) - (log pi(y_l|x) - log pi_ref(y_l|x))]
    L = -log sigmoid(m)                                        mean over pairs

label_smoothing: the share of labels taken to be wrong (conservative DPO). On pairs from data it is the stage `preference`'s
default; in a stage of kind "rl" the best and the worst sample of each group are the pair (online DPO, 2402.04792).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Options
from outdo.algorithms.common.preferences import Pairs, Preferences, logistic


class Dpo(Preferences):
    """A classifier of pairs whose logit is the policy's own log-ratio to the reference."""

    name = "dpo"

    class Config(Options):
        """Options of dpo."""

        beta: float = Field(default=0.1, gt=0)  # smaller: further from the reference
        label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)

    config: Config

    @property
    def reference(self) -> bool:
        """See `Algorithm.reference`."""
        return True

    def losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Preferences.losses`."""
        chosen, rejected = pairs.log_ratios
        margin = self.config.beta * (chosen - rejected)
        return logistic(margin, self.config.label_smoothing), margin
