"""What a task is: where prompts come from, how an episode goes on, and what its result was.

A task is one file in this folder (or `my_task.py:MyTask` anywhere) with a class that derives from `Task`; its nested
`Config` (pydantic, unknown keys forbidden) is the only place where its options are written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from outdo import plugins
from outdo.plugins import Configured, Plugin
from outdo.plugins import Options as Options
from outdo.types import BoolArray, IntArray, Prompt, Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Episodes(Protocol):
    """Many multi-turn episodes stepped together. Row r belongs to the r-th entry of the prompts it was made from."""

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]:
        """Play the policy's replies and answer with the next observations.

        rows_R: which episodes, each once. replies_RN: [R, turn_tokens] the policy's token ids of this turn, -1 where a
        reply was shorter. Returns observations [R, C] (token ids, right-padded with -1) and done [R]. The observation of
        an episode that is done is its closing text (the result), which the policy never has to continue.
        """

    def info(self, row: int) -> dict[str, Any]:
        """Facts about a finished episode, JSON-serialisable; becomes `Trajectory.info`."""


class Task(Configured):
    """One kind of problem. Everything random comes from the seeds passed in; same seed, same order."""

    name: ClassVar[str]
    Config: ClassVar[type[Options]] = Options
    turn_tokens: int  # most tokens that the policy writes in one turn
    max_tokens: int  # longest whole trajectory, prompt included
    stop_ids: tuple[int, ...] = ()  # tokens with which the policy ends its turn; empty: a turn is turn_tokens long
    opponents: tuple[str, ...] = ("none",)  # what the policy can be evaluated against; the first is the default
    players: tuple[str, ...] = ()  # reference players, for `play`
    headline: str = "win"  # the key of `metrics` that is the score; "gold": the gold judge's score is
    judge: str = "outcome"  # default training and gold judge; "function": the recipe must name functions

    def describe(self) -> str:
        """One line for the reader: what was taken from the data and what was left out. Empty: nothing to say."""
        return ""

    @property
    def one_reply(self) -> bool:
        """Whether an episode is a prompt and one completion: then a user's rollout function can stand in for the engine."""
        return False

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer for models that start from random weights."""

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Text tasks take the tokenizer of the model that tries them; tasks with a vocabulary of their own keep theirs."""
        del tokenizer

    def fit(self, context: int) -> None:
        """Shrink what the user left open until an episode fits into a model that reads `context` tokens."""
        del context

    @abstractmethod
    def prompts(self, split: str, n: int, seed: int, start: int = 0) -> list[Prompt]:
        """Prompts number start .. start+n-1 of the endless stream (split, seed). Splits share no underlying item."""

    def withheld(self, split: str, n: int) -> list[str]:
        """The words of the prompts that are measured on, at least of the first n of the split: rows with these do not train.

        Empty for tasks whose prompts are no text.
        """
        del split, n
        return []

    def size(self, split: str) -> int | None:
        """How many different prompts the split has; None: more than anyone asks for."""
        del split
        return None

    @abstractmethod
    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Episodes:
        """Begin one episode per prompt. seeds_R: one seed per episode for whatever the environment draws."""

    @abstractmethod
    def play(
        self, player: str, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None, random_moves: float = 0.0
    ) -> list[Trajectory]:
        """Let a reference player (no model) play the same episodes: demonstrations and baselines.

        random_moves: share of its moves that are any allowed one instead. Raises UserError where nobody knows what is allowed.
        """

    @abstractmethod
    def metrics(self, trajectories: Sequence[Trajectory]) -> Mapping[str, np.ndarray]:
        """Per-trajectory measurements, each [n] float64, NaN where undefined. Must contain `self.headline`,
        in [0, 1], unless that is "gold"."""

    def points(self, trajectories: Sequence[Trajectory]) -> np.ndarray | None:
        """What each game is worth in a match [n]: won 1, drawn 1/2, lost 0, NaN where it broke. None: the task has no results of
        games, and the gold judge's scores are compared."""
        del trajectories
        return None

    def player_flops(self, player: str) -> float:
        """Arithmetic of one move of a reference player, booked when its episodes train a model. Free unless told."""
        del player
        return 0.0

    def replay(self, trajectory: Trajectory) -> list[dict[str, Any]]:
        """The episode step by step, for readers; the task's own format. Empty: nothing beyond the text."""
        del trajectory
        return []

    def judge_pairs(self, trajectories: Sequence[Trajectory], n: int, seed: int) -> list[tuple[IntArray, IntArray]]:
        """Up to n pairs of prefixes of equal length, (just won, not won), to test how well a model recognises a win."""
        del trajectories, n, seed
        return []


def make_task(plugin: Plugin) -> Task:
    """The task that a recipe names, with its options checked. Raises UserError."""
    return plugins.make("tasks", plugin, Task)  # type: ignore[type-abstract]
