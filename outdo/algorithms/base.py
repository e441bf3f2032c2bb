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
from outdo.types import FloatArray, TokenBatch, Total


class Algorithm(Configured):
    """advantages(values) over one group, then loss(batch, total) over micro-batches whose losses add up."""

    name: ClassVar[str]
    Config: ClassVar[type[Options]] = Options
    on_policy: ClassVar[bool] = True  # whether old_logprobs are needed
    critic: ClassVar[bool] = False  # whether `per_token` is to be called, with values that a critic learns
    paired: ClassVar[bool] = False  # whether samples come as pairs: advantage 1 the preferred one, -1 the other
    labelled: ClassVar[bool] = False  # whether samples come by themselves, each called good (advantage 1) or bad (-1)

    def __init__(self, config: Options | None = None) -> None:
        self.config = config or self.Config()

    @property
    def learns_from_scores(self) -> bool:
        """Whether it turns scores of samples into advantages; imitation, distillation and reward models do not."""
        return type(self).advantages is not Algorithm.advantages

    def advantages(self, values: Sequence[float | None]) -> list[float | None] | None:
        """Scores of one group -> one advantage per trajectory; None for a trajectory that trains nothing.

        Returning None for the whole group says that it carries no signal: it is skipped, and its cost is booked.
        """
        raise NotImplementedError(f"{self.name} does not learn from scores")

    def per_token(self, outcome: float, group_mean: float, values: FloatArray,
                  penalty: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Share the score of a trajectory out among its n sampled tokens: advantages [n], and what the critic should say [n].

        values: [n] the critic's expectation before each of them, when they were sampled. penalty: [n] what each token costs.
        """
        raise NotImplementedError(f"{self.name} has no critic")

    def normalise(self, advantages: Sequence[FloatArray]) -> list[FloatArray]:
        """The advantages of all samples of a step, [n] each, on a common scale. Default: as they are."""
        return list(advantages)

    @abstractmethod
    def loss(self, batch: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
        """The micro-batch's share of the loss, and sums (not means) of per-token metrics.

        total: what trains in the whole optimiser step, over all micro-batches: every algorithm divides by it, so that any split
        into micro-batches gives the same gradient.
        """

    # --- what some algorithms need beside the batch -------------------------------------------------------------------

    @property
    def reference(self) -> bool:
        """Whether samples need `ref_logprobs`, from a frozen copy of the policy (the weights that the stage starts from)."""
        return False

    @property
    def reference_every(self) -> int | None:
        """Steps of the stage after which the reference policy becomes the policy of that time; None: never."""
        return None

    @property
    def critic_model(self) -> bool:
        """Whether the critic is a model with weights of its own, a copy of the stage's start, and not a head on the policy."""
        return False

    @property
    def critic_lr_scale(self) -> float:
        """Learning rates of that model, as a multiple of the stage's."""
        return 1.0

    @property
    def vocabulary(self) -> bool:
        """Whether the loss calls `batch.vocabulary`: it needs whole distributions, not only the chosen tokens' log-probs."""
        return False

    def penalty(self, logprobs: FloatArray, ref_logprobs: FloatArray) -> FloatArray | None:
        """[n] what is taken from the reward at each sampled token; None: nothing."""
        del logprobs, ref_logprobs
        return None

    def observe(self, metrics: dict[str, float]) -> None:
        """Called after every optimiser step with its metrics, which may be added to: coefficients adapt here."""

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of the algorithm."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """Put back what `state` gave."""


def make_algorithm(plugin: Plugin) -> Algorithm:
    """The algorithm that a recipe names, with its options checked. Raises UserError."""
    return plugins.make("algorithms", plugin, Algorithm)  # type: ignore[type-abstract]
