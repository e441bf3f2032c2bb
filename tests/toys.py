"""Small models, prompts and environments that many tests share. Imported as `toys` (pytest puts tests/ on the path)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from outdo.models.decoder import Decoder, DecoderConfig
from outdo.rollout.engine import Engine
from outdo.types import BoolArray, IntArray, Prompt, Sample, Trajectory

SMALL = DecoderConfig(
    vocab_size=29, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rope_theta=500.0,
)  # fmt: skip


def config(**changes: Any) -> DecoderConfig:
    return replace(SMALL, **changes)


def decoder(c: DecoderConfig = SMALL, seed: int = 0, std: float = 0.25) -> Decoder:
    """Random weights large enough that logits differ by a few nats; norm weights are not one."""
    model = Decoder(c)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(std * noise if parameter.dim() == 2 else 1.0 + 0.3 * noise)
    return model


def engine(model: Decoder, dtype: torch.dtype = torch.float32, slots: int = 64, version: int = 3) -> Engine:
    out = Engine(model, dtype, slots)
    out.load(version)
    return out


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, vocab_size))]
    bare = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    bare.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def prompts(lengths: Sequence[int], vocab_size: int = SMALL.vocab_size, seed: int = 0) -> list[Prompt]:
    rng = np.random.default_rng(seed)
    return [Prompt(f"toy/{seed}/{i}", rng.integers(0, vocab_size, n)) for i, n in enumerate(lengths)]


def samples(lengths: Sequence[int], vocab_size: int = SMALL.vocab_size, seed: int = 0, share: float = 0.5) -> list[Sample]:
    """Random sequences of which about `share` trains, with random advantages and old log-probabilities."""
    rng = np.random.default_rng(seed)
    out = []
    for n in lengths:
        mask = rng.random(n) < share
        mask[0], mask[-1] = False, n > 1
        tokens = rng.integers(0, vocab_size, n)
        advantages, old = rng.normal(size=n), -3.0 + 0.3 * rng.normal(size=n)
        out.append(Sample(tokens, mask, np.float32(advantages * mask), np.float32(old * mask)))
    return out


def as_sample(t: Trajectory, advantage: float = 1.0) -> Sample:
    return Sample(t.token_ids, t.mask, np.float32(t.mask * advantage), t.logprobs)


class Ragged:
    """An environment whose every turn differs from row to row and depends on the reply alone.

    The observation after a reply holds (5 * sum of the reply) mod `longest` tokens, so its length runs from 0 to
    longest - 1; the episode is done after 1 + (first token of the prompt) mod `turns` turns. It remembers every reply.
    """

    def __init__(self, prompts: Sequence[Prompt], group_size: int, longest: int = 6, turns: int = 4) -> None:
        self.left = np.array([1 + int(p.token_ids[0]) % turns for p in prompts]).repeat(group_size)
        self.longest = longest
        self.replies: list[list[list[int]]] = [[] for _ in self.left]
        self.observations: list[list[list[int]]] = [[] for _ in self.left]

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]:
        assert len(set(rows_R.tolist())) == len(rows_R), "a row was stepped twice at once"
        out = np.full((len(rows_R), self.longest), -1, np.int64)
        for i, row in enumerate(rows_R):
            assert self.left[row] > 0, "a finished episode was stepped"
            reply = [int(t) for t in replies_RN[i] if t >= 0]
            n = 5 * sum(reply) % self.longest
            out[i, :n] = [(reply[-1] + 7 * k) % SMALL.vocab_size for k in range(n)]
            self.replies[row].append(reply)
            self.observations[row].append(out[i, :n].tolist())
        self.left[rows_R] -= 1
        return out, self.left[rows_R] == 0

    def info(self, row: int) -> dict[str, Any]:
        return {"turns": len(self.replies[row])}


class Pays:
    """An environment that pays what its row says; no model has to call anything for it."""

    def reset(self, bonus: float, **kwargs: Any) -> None:
        self.bonus = bonus

    def look(self, what: str) -> str:
        """Look at something.

        Args:
            what: at what.
        """
        return what

    def get_reward(self) -> float:
        return self.bonus
