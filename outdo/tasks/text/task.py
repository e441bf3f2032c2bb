"""The base of tasks whose prompts and answers are text: they are tried with whatever model the run starts from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check, nearest
from outdo.system import randomness
from outdo.tasks.base import Episodes, Options, Task
from outdo.text import chat
from outdo.text.chat import Messages
from outdo.text.overlap import words_of
from outdo.types import BoolArray, Finish, IntArray, Prompt, Trajectory

_SHORTEST = 16  # tokens of a reply that is shrunk to fit


class TextOptions(Options):
    """Options that all text tasks have."""

    system: str | None = None  # a system message put before every prompt; empty: none
    max_prompt_tokens: int = Field(default=512, ge=1)  # longer prompts are dropped and counted
    max_new_tokens: int = Field(default=256, ge=1)  # most tokens of one reply


class TextTask(Task):
    """A prompt in, a reply out. `info` of its trajectories: `prompt`, `completion` and the row's other columns.

    A conversational prompt is a list of messages, and its completion too; a plain one is a string, its completion as well.
    The score is the gold judge's: a text alone does not know how good it is.
    """

    headline = "gold"
    splits: tuple[str, ...] = ("train", "validation", "heldout")

    def __init__(self, config: TextOptions) -> None:
        self.config = config
        self._measure()
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.bind`."""
        self._tokenizer, self.stop_ids = tokenizer, chat.stop_ids(tokenizer)

    def fit(self, context: int) -> None:
        """See `Task.fit`: prompts get shorter, down to half of the context, then replies; never what the options name."""
        named = self.config.model_fields_set
        if (over := self.max_tokens - context) > 0 and "max_prompt_tokens" not in named:
            self._set({"max_prompt_tokens": max(self.config.max_prompt_tokens - over, context // 2, 1)})
        while self.max_tokens > context and "max_new_tokens" not in named and self.config.max_new_tokens > _SHORTEST:
            self._set({"max_new_tokens": max(self.config.max_new_tokens // 2, _SHORTEST)})

    def _set(self, options: Mapping[str, Any]) -> None:
        """Change options that follow from the model or the data."""
        if options:
            named = self.config.model_fields_set
            self.config = self.config.model_copy(update=dict(options))
            self.config.model_fields_set.intersection_update(named)  # still open to `fit`
            self._measure()

    def _measure(self) -> None:
        """How long turns and episodes may get."""
        self.turn_tokens = self.config.max_new_tokens
        self.max_tokens = self.config.max_prompt_tokens + self.config.max_new_tokens

    @property
    def one_reply(self) -> bool:
        """See `Task.one_reply`."""
        return True

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the task was bound to. Raises UserError if there is none yet."""
        if self._tokenizer is None:
            raise UserError(f"task {self.name} needs a model's tokenizer: give the first stage from = '<checkpoint>', or name "
                            "model.tokenizer")
        return self._tokenizer

    @abstractmethod
    def row(self, split: str, seed: int, number: int) -> dict[str, Any]:
        """Columns of prompt `number`, JSON-serialisable; `prompt` is what the policy is shown."""

    def answer(self, row: Mapping[str, Any]) -> str | None:
        """A right reply to the row, for the player `gold`; None if it is not known."""
        del row
        return None

    def tool_schemas(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """JSON schemas of the tools that the policy is told of with this row."""
        del row
        return []

    def prompts(self, split: str, n: int, seed: int, start: int = 0) -> list[Prompt]:
        """See `Task.prompts`."""
        self.tokenizer()
        check(split in self.splits, f"split {split!r}: task {self.name} has no such split{nearest(split, list(self.splits))}")
        out = []
        for number in range(start, start + n):
            row = self.row(split, seed, number)
            out.append(Prompt(f"{split}/{seed}/{number}", self.encode(row), row))
        return out

    def withheld(self, split: str, n: int) -> list[str]:
        """See `Task.withheld`."""
        return [words_of(p.row["prompt"]) for p in self.prompts(split, n, 0)]

    def encode(self, row: Mapping[str, Any]) -> IntArray:
        """Token ids of a row's prompt, as the model will read it: with the tools that it may call and the row's own columns
        `tools` and `chat_template_kwargs`."""
        tokenizer, prompt = self.tokenizer(), row["prompt"]
        if isinstance(prompt, str):
            return chat.encode(tokenizer, prompt, plain=True)
        return chat.encode(tokenizer, chat.render(tokenizer, prompt, self.tool_schemas(row), row=row))

    def reply_text(self, reply: IntArray) -> str:
        """What the policy wrote, as text (see `chat.decode`)."""
        return chat.decode(self.tokenizer(), reply, self.stop_ids)

    def with_system(self, prompt: str | Messages) -> str | Messages:
        """The prompt after the system message of the options, if there is one; a plain string becomes the user's words."""
        if not self.config.system:
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return [{"role": "system", "content": self.config.system}, *messages]

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Episodes:
        """See `Task.episodes`."""
        del seeds_R, opponent
        return Replies(self.tokenizer(), prompts, self.stop_ids)

    def play(
        self, player: str, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None, random_moves: float = 0.0
    ) -> list[Trajectory]:
        """See `Task.play`. The only player is gold, which knows the right answers; its log-probabilities are 0."""
        check(random_moves == 0.0, f"random_moves = {random_moves}: task {self.name} has no moves to draw from; leave it out")
        known = list(self.players)
        check(player in known, f"player {player!r}: task {self.name} has no such player{nearest(player, known)}")
        episodes, out = self.episodes(prompts, seeds_R, opponent), []
        for i, prompt in enumerate(prompts):
            reply = self._reply(prompt)
            padded = np.full((1, self.turn_tokens), -1)
            padded[0, : len(reply)] = reply
            episodes.step(np.array([i]), padded)
            tokens = np.concatenate([prompt.token_ids, reply])
            finish = Finish.STOP if reply[-1] in self.stop_ids else Finish.LENGTH
            out.append(Trajectory(prompt.id, 0, tokens, np.arange(len(tokens)) >= len(prompt.token_ids),
                                  np.zeros(len(tokens), np.float32), -1, finish, episodes.info(i)))
        return out

    def _reply(self, prompt: Prompt) -> IntArray:
        """The right answer's tokens and the end of the turn, cut where the policy would be cut."""
        tokenizer, text = self.tokenizer(), self.answer(prompt.row)
        check(text is not None, f"task {self.name} knows no right answer to {prompt.id}, so player gold cannot play")
        end = None if isinstance(prompt.row["prompt"], str) else chat.turn_end(tokenizer)
        words = chat.encode(tokenizer, str(text)).tolist()
        return np.array([*words, end or tokenizer.eos_token_id or self.stop_ids[0]], np.int64)[: self.turn_tokens]

    def metrics(self, trajectories: Sequence[Trajectory]) -> Mapping[str, np.ndarray]:
        """Per trajectory: finished (0 or 1: not cut by the budget), tokens (that the policy wrote)."""
        return {
            "finished": np.array([t.finish != Finish.LENGTH for t in trajectories], np.float64),
            "tokens": np.array([t.sampled_tokens for t in trajectories], np.float64),
        }


class Replies:
    """One turn each: the reply is the end (see `Episodes`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], stop_ids: Sequence[int]) -> None:
        self.tokenizer, self.prompts, self.stop_ids = tokenizer, prompts, stop_ids
        self.replies: dict[int, str] = {}

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]:
        """See `Episodes.step`: nothing is answered."""
        for row, reply in zip(rows_R.tolist(), replies_RN, strict=True):
            self.replies[row] = chat.decode(self.tokenizer, reply, self.stop_ids)
        return np.zeros((len(rows_R), 0), np.int64), np.ones(len(rows_R), bool)

    def info(self, row: int) -> dict[str, Any]:
        """The row's columns, its prompt and what was completed."""
        columns, text = self.prompts[row].row, self.replies.get(row, "")
        plain = isinstance(columns["prompt"], str)
        return {**columns, "completion": text if plain else [{"role": "assistant", "content": text}]}


def share(text: str) -> float:
    """A number in [0, 1) that the text alone decides: the same text never falls into two splits."""
    return randomness.key("split", text) / 2**63


def split_of(text: str, validation: float, heldout: float) -> str:
    """heldout, validation or train."""
    at = share(text)
    return "heldout" if at < heldout else "validation" if at < heldout + validation else "train"
