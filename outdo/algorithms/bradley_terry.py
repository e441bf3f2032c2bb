"""The loss of a reward model: Bradley and Terry (1952), as in Ouyang et al., 2203.02155.

    L = -log sigmoid(v_w - v_l - margin) + centring * (v_w + v_l)^2      mean over pairs

v is what the head says at the end of a text. margin: how much better the chosen answer is, where the data says so (Llama 2,
2307.09288); centring holds the mean score of a pair at 0, so that scores of several models can be compared (2312.09244). The
stage `reward_model` puts the margin into the chosen answer's advantage, 1 + margin; the rejected one's is -1.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from outdo.algorithms.base import Options
from outdo.algorithms.common.preferences import Preferences, ahead, logistic, two
from outdo.types import TokenBatch, Total


class BradleyTerry(Preferences):
    """A classifier of pairs whose logit is the difference of two scores."""

    name = "bradley_terry"
    critic: ClassVar[bool] = True

    class Config(Options):
        """Options of bradley_terry."""

        centring: float = Field(default=0.0, ge=0)  # TRL's center_rewards_coefficient; 0.01 is usual

    config: Config

    @property
    def learns_from_scores(self) -> bool:
        """See `Algorithm.learns_from_scores`: it learns from pairs, what is scored by it comes later."""
        return False

    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Algorithm.loss`."""
        assert batch.values is not None
        (sign, other), (first, second) = two(batch.advantages, batch.sequence), two(batch.values, batch.sequence)
        lead = (first - second) * sign.sign()
        losses = logistic(lead - (sign + other).abs()) + self.config.centring * (first + second).square()
        share = 2.0 / total.sequences
        accuracy = ahead(lead).sum() * share * total.tokens
        return losses.sum() * share, {"pair_accuracy": accuracy, "margin": lead.detach().sum() * share * total.tokens}
