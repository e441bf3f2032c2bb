"""ORPO, odds ratio preference optimisation (Hong et al., 2403.07691): imitation of the chosen answers and a penalty in one.

    p   = exp(mean_t log pi(y_t)),  odds = p / (1 - p)
    L   = -mean_t log pi(y_w,t) - beta * log sigmoid(log odds(y_w) - log odds(y_l))     mean over pairs

No reference and no SFT stage before it: the first term is that. The paper calls beta lambda.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Options
from outdo.algorithms.common.preferences import Pairs, Preferences, logistic


class Orpo(Preferences):
    """Cross-entropy on the chosen answers, and odds of the chosen over the rejected."""

    name = "orpo"

    class Config(Options):
        """Options of orpo."""

        beta: float = Field(default=0.1, ge=0)

    config: Config

    def losses(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Preferences.losses`."""
        n, m = pairs.lengths
        chosen, rejected = pairs.chosen / n.clamp(min=1), pairs.rejected / m.clamp(min=1)
        lead = _log_odds(chosen) - _log_odds(rejected)
        return -chosen + self.config.beta * logistic(lead), self.config.beta * lead


def _log_odds(mean_logprob: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(mean_logprob); a certain answer (p = 1) counts as p = 1 - 1e-6."""
    x = mean_logprob.clamp(max=-1e-6)
    return x - torch.log(-torch.expm1(x))
