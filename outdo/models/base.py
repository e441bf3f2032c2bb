"""What a language model is to sampling, training and FLOP counting: `Decoder` (fast) or `Fallback` (any other)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig


class Sizes(Protocol):
    """What is read off a model's config outside of the model."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def layer_weights(self) -> int:
        """Weights that each cost two FLOPs per token that passes the layers."""
    @property
    def tail_weights(self) -> int:
        """Those of them that meet only positions whose logits are wanted."""


class Prompts(NamedTuple):
    """Rows in which segments may go on from a prompt, itself a segment of the row. They may be longer than the context."""

    parents_BT: Tensor  # int64, the other segment that a token sees; -2: none
    positions_BT: Tensor  # int64, position in the sequence that it belongs to


class LanguageModel(nn.Module, ABC):
    """Parameters in float32, and how to compute with them: `pack`, then `hidden` and `logits`.

    `rollout.cache` holds what generation needs beside it. Whatever has gone through `pack` is the same function of the
    parameters for the sampler and for the trainer; there is no dropout.
    """

    config: Sizes
    origin: PretrainedConfig | None = None  # the Hugging Face config that it was loaded with
    shares_prompts: bool = False  # whether `hidden` takes `prompts`
    source: str = ""  # the folder or hub id that it was loaded from: what an adapter names as its base
    generation: str | None = None  # its generation_config.json: when to stop; goes out as it came in

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def long_rows(self, dtype: torch.dtype) -> bool:
        """Whether `hidden` is at its best with rows of many segments, and takes longer ones than the context with `prompts`."""
        return False

    @abstractmethod
    def pack(self, dtype: torch.dtype) -> Any:
        """The compute weights, differentiable with respect to the parameters that train."""

    def pack_to_sample(self, dtype: torch.dtype, into: Any = None) -> Any:
        """The compute weights once per policy version, for products of few rows. No gradient; call it without.

        into: those of an earlier version, which may be written over: on a GPU the weights that graphs read stay where they are.
        """
        return self.pack(dtype)

    @abstractmethod
    def hidden(self, packed: Any, tokens_BT: Tensor, segments_BT: Tensor | None = None, wanted_N: Tensor | None = None,
               prompts: Prompts | None = None) -> Tensor:
        """Whole sequences from position 0 -> normalised hidden states [B, T, D]. Causal; padding goes on the right.

        tokens_BT and wanted_N may lie on another device than the model.
        segments_BT: rows hold several sequences one after the other; a token sees only its own segment.
        wanted_N: flat positions b * T + t; the result is then [N, D].
        prompts: segments of a row that go on from another one of it. Only where `shares_prompts`.
        """

    @abstractmethod
    def logits(self, packed: Any, hidden: Tensor) -> Tensor:
        """hidden [..., D] from `hidden` -> float32 logits [..., V]. Call it only where a token trains or is sampled."""

    def logprobs(self, packed: Any, hidden: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
        """hidden [N, D] -> float32 log-probabilities [N] of the targets under softmax(logits / temperature), with gradient."""
        logits = self.logits(packed, hidden) / temperature
        return torch.log_softmax(logits, dim=-1).gather(1, targets_N[:, None]).squeeze(1)
