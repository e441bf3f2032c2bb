"""What an algorithm is: how scores become advantages, and how advantages become a loss. Pure; the trainer does not know its name.

An algorithm is one file in this folder (or `my_algorithm.py:MyAlgorithm` anywhere) with a class that derives from
`Algorithm`; its nested `Config` is the only place where its options are written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Options(BaseModel):
    """Base of every algorithm's nested Config: typed, frozen, misspelt keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class TokenBatch:
    """The trained tokens of a micro-batch, flat: N tokens, all float32, nothing masked left inside.

    Example, two sequences with 2 and 1 trained tokens: logprobs [-0.1, -2.3, -0.7], sequence [0, 0, 1].
    """

    logprobs: Tensor  # [N] under the current weights, with gradient
    old_logprobs: Tensor  # [N] under the sampling policy
    advantages: Tensor  # [N]
    sequence: Tensor  # [N] int64, which sequence of the micro-batch a token belongs to


class Algorithm(ABC):
    """advantages(values) over one group, then loss(batch, total_tokens) over micro-batches whose losses add up."""

    name: ClassVar[str]
    Config: ClassVar[type[Options]] = Options
    on_policy: ClassVar[bool] = True  # whether old_logprobs are needed

    def __init__(self, config: Options | None = None) -> None:
        self.config = config or self.Config()

    def advantages(self, values: Sequence[float | None]) -> list[float | None] | None:
        """Scores of one group -> one advantage per trajectory; None for a trajectory that trains nothing.

        Returning None for the whole group says that it carries no signal: it is skipped, and its cost is booked.
        """
        raise NotImplementedError(f"{self.name} does not learn from scores")

    @abstractmethod
    def loss(self, batch: TokenBatch, total_tokens: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss, and sums (not means) of per-token metrics.

        total_tokens: trained tokens in the whole optimiser step, over all micro-batches: every algorithm divides by it, so
        that any split into micro-batches gives the same gradient.
        """
