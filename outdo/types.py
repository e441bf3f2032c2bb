"""The nouns of outdo: frozen records that flow from task to weights. Imports nothing of ours.

    task -> Prompt -> engine -> Trajectory -> judge -> Score -> Group -> algorithm -> Sample -> TokenBatch -> step -> weights

Shape legend, used in names throughout the project: P prompts, G samples per group, R rows, T tokens, B batch rows,
L layers, H heads, D width, V vocabulary. Units are suffixes: _tokens, _s, _flops, _bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # recipes are read and refused without torch
    from torch import Tensor

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

OfVocabulary = Callable[["Tensor", "Tensor | None"], "Tensor"]

LARGEST_SCORE = 1e30  # of a score, either way: sums and squares of what is larger are no longer finite


class Finish(StrEnum):
    """Why a trajectory ended. Truncated and failed are not the same as lost."""

    STOP = "stop"  # the policy wrote its end token
    DONE = "done"  # the task ended the episode (won, lost, drawn, illegal)
    LENGTH = "length"  # the token budget ran out first
    ERROR = "error"  # the task or a tool failed; never scored


@dataclass(frozen=True)
class Prompt:
    """What the policy is given.

    Example (KRK endgame): id "heldout/17", token_ids [bos, Kc3, Rd4, kd6], row {"start": 123456, "dtm_plies": 23}.
    """

    id: str
    token_ids: IntArray  # [T] the first observation, as the policy's tokens
    row: Mapping[str, Any] = field(default_factory=dict)  # the task's own columns; JSON-serialisable; never shown


@dataclass(frozen=True)
class Trajectory:
    """One finished episode: every token that the policy saw or wrote, in order.

    Example: token_ids [bos Kc3 Rd4 kd6 | Rd8 | Kc3 Rd8 ke7 | Kc4 | ... 1-0], mask True on `Rd8`, `Kc4`, ... only,
    logprobs the sampling log-probability (natural log, float32) there and 0.0 elsewhere.
    """

    prompt_id: str
    sample: int  # index within its group
    token_ids: IntArray  # [T]
    mask: BoolArray  # [T] True where the policy sampled the token
    logprobs: FloatArray  # [T] nats under the sampling policy; 0 where mask is False
    policy_version: int  # optimiser steps behind the sampling weights; -1 for players that are not the model
    finish: Finish
    info: Mapping[str, Any] = field(default_factory=dict)  # facts that the task knows, JSON-serialisable
    values: FloatArray | None = None  # [T] the critic's expected score before each sampled token; None without a critic
    ref_logprobs: FloatArray | None = None  # [T] nats under the reference policy; None where no algorithm asks for it
    weights: FloatArray | None = None  # [T] factors of its advantages, where sampler and trainer disagree; None: 1
    # Earlier turns of the same episode, where the context of each turn was rendered anew instead of being continued.
    earlier: tuple[Trajectory, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.mask) == len(self.logprobs), "trajectory arrays differ in length"

    @property
    def pieces(self) -> tuple[Trajectory, ...]:
        """The sequences that the policy sampled into, oldest first: one, or one a turn."""
        return (*self.earlier, self)

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy wrote, in all turns."""
        return sum(int(piece.mask.sum()) for piece in self.pieces)


@dataclass(frozen=True)
class Score:
    """A judge's answer. value None: the judge could not say; such a sample is left out and counted, never a zero."""

    value: float | None
    reason: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    answered: bool = True  # False: the judge looked for an answer and there was none in the form that it reads


@dataclass(frozen=True)
class Group:
    """The samples drawn for one prompt, with their scores: the unit of group-relative algorithms."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]  # [G]
    scores: tuple[Score, ...]  # [G]

    def __post_init__(self) -> None:
        assert len(self.trajectories) == len(self.scores), "a group needs one score per trajectory"


@dataclass(frozen=True)
class Taught:
    """What a teacher behind a server says in front of each of a sample's n tokens that train: its k likeliest tokens."""

    ids: IntArray  # [n, k] token ids
    logprobs: FloatArray  # [n, k] nats at temperature 1


@dataclass(frozen=True)
class Sample:
    """What a training step consumes: one sequence, what trains in it, and how strongly.

    Example (imitation): mask True on the answer, advantages 1.0 there, logprobs 0. (Reinforcement): the trajectory's own
    mask and logprobs, advantages the algorithm's, constant over the trajectory or per token.
    """

    token_ids: IntArray  # [T]
    mask: BoolArray  # [T] True where the token trains; position 0 is always False
    advantages: FloatArray  # [T] 0 where mask is False
    logprobs: FloatArray  # [T] under the sampling policy; 0 where mask is False
    returns: FloatArray | None = None  # [T] what a critic should expect before each token that trains; None without one
    ref_logprobs: FloatArray | None = None  # [T] under the reference policy; None where no algorithm asks for it
    pair: int | None = None  # samples of one number train in one micro-batch: a preferred answer and the other
    taught: Taught | None = None  # a teacher's distributions, where no teacher is at hand to compute them

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.mask), len(self.advantages), len(self.logprobs)}
        assert len(lengths) == 1, "sample arrays differ in length"
        assert not self.mask[0], "the first token has nothing before it to be predicted from"


@dataclass(frozen=True)
class TokenBatch:
    """The trained tokens of a micro-batch, flat: N tokens, all float32, nothing masked left inside.

    Example, two sequences with 2 and 1 trained tokens: logprobs [-0.1, -2.3, -0.7], sequence [0, 0, 1].
    """

    logprobs: Tensor  # [N] under the current weights, with gradient
    old_logprobs: Tensor  # [N] under the sampling policy
    advantages: Tensor  # [N]
    sequence: Tensor  # [N] int64, which sequence of the micro-batch a token belongs to
    ref_logprobs: Tensor | None = None  # [N] under the reference policy
    values: Tensor | None = None  # [N] what the critic, or a reward model's head, says before each token; None without one
    # Calls a function on pieces of the tokens' whole distributions, log-probabilities of the policy [n, V] and of the teacher
    # [n, V] or None -> its values [N, ...], with gradient. Only where the algorithm asks for it.
    vocabulary: Callable[[OfVocabulary], Tensor] | None = None

    def lengths(self) -> Tensor:
        """[sequences] float32, trained tokens of each."""
        n = int(self.sequence.max()) + 1 if len(self.sequence) else 0
        return self.logprobs.new_zeros(n).index_add(0, self.sequence, self.logprobs.new_ones(len(self.sequence)))


@dataclass(frozen=True)
class Total:
    """What trains in an optimiser step, over all of its micro-batches. Losses divide by these, so that any split adds up."""

    tokens: int
    sequences: int


@dataclass(frozen=True)
class Usage:
    """What a piece of work spent. Adds up with +; every stage returns it, the ledger books it.

    FLOPs are analytic (multiply and add counted as two). `judge_flops` holds judges and teachers, `reference_flops`
    forward passes of frozen reference models, and of a critic with weights of its own. Discarded tokens were generated and paid
    for, but trained nothing.
    """

    prefill_tokens: int = 0
    decode_tokens: int = 0
    train_tokens: int = 0
    discarded_tokens: int = 0
    prefill_flops: float = 0.0
    decode_flops: float = 0.0
    judge_flops: float = 0.0
    reference_flops: float = 0.0
    update_flops: float = 0.0
    judge_calls: int = 0
    episodes: int = 0
    judge_tokens: int = 0  # of models behind servers
    judge_cost: float = 0.0  # money, by the prices that the judge was given

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def flops(self) -> float:
        """All FLOPs, whatever they were spent on."""
        return self.prefill_flops + self.decode_flops + self.judge_flops + self.reference_flops + self.update_flops


@dataclass(frozen=True)
class Asked:
    """What judging asks of a model behind a server, estimated before anything is asked. Prices are for a million tokens."""

    model: str
    read_tokens: float
    written_tokens: float
    price_in: float = 0.0
    price_out: float = 0.0
    local: bool = False  # a server on this machine: nobody sends a bill

    def times(self, n: float) -> Asked:
        """So many times as much."""
        return replace(self, read_tokens=n * self.read_tokens, written_tokens=n * self.written_tokens)
