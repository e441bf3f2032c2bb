"""What an algorithm is: how scores become advantages, and how advantages become a loss. Pure; the trainer does not know its name.

An algorithm is one file in this folder (or `my_algorithm.py:MyAlgorithm` anywhere) with a class that derives from
`Algorithm`; its nested `Config` is the only place where its options are written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from outdo import plugins
from outdo.plugins import Configured, Plugin
from outdo.plugins import Options as Options
from outdo.types import FloatArray, TokenBatch


class Algorithm(Configured):
    """advantages(values) over one group, then loss(batch, total_tokens) over micro-batches whose losses add up."""

    name: ClassVar[str]
    Config: ClassVar[type[Options]] = Options
    on_policy: ClassVar[bool] = True  # whether old_logprobs are needed
    critic: ClassVar[bool] = False  # whether `per_token` is to be called, with values that a critic learns

    def __init__(self, config: Options | None = None) -> None:
        self.config = config or self.Config()

    def advantages(self, values: Sequence[float | None]) -> list[float | None] | None:
        """Scores of one group -> one advantage per trajectory; None for a trajectory that trains nothing.

        Returning None for the whole group says that it carries no signal: it is skipped, and its cost is booked.
        """
        raise NotImplementedError(f"{self.name} does not learn from scores")

    def per_token(self, outcome: float, group_mean: float, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share the score of a trajectory out among its n sampled tokens: advantages [n], and what the critic should say [n].

        values: [n] the critic's expectation before each of them, when they were sampled.
        """
        raise NotImplementedError(f"{self.name} has no critic")

    @abstractmethod
    def loss(self, batch: TokenBatch, total_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss, and sums (not means) of per-token metrics.

        total_tokens: trained tokens in the whole optimiser step, over all micro-batches: every algorithm divides by it, so
        that any split into micro-batches gives the same gradient.
        """


def make_algorithm(plugin: Plugin) -> Algorithm:
    """The algorithm that a recipe names, with its options checked. Raises UserError."""
    return plugins.make("algorithms", plugin, Algorithm)  # type: ignore[type-abstract]
