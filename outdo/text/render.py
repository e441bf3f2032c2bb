"""Rows -> token ids and which of them train: chat templates for messages, plain strings as they are.

What trains is known from how the text is put together (the template's own `{% generation %}` marks, or the conversation rendered
turn by turn), never found by searching in it. It is what a policy would have sampled: from where the template tells it to
write up to its end token. Each such stretch is encoded by itself, as it is when a model generates it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from outdo.errors import UserError, check
from outdo.text.chat import Chat, Messages, Span, closing_marker, known_ends, without_none
from outdo.text.rows import Row, RowOptions, Rows, first
from outdo.text.shapes import Shape, shape_of
from outdo.types import BoolArray, IntArray, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rendered:
    """A row as tokens. Example: [<user> hi <end> <assistant> | hello <end>], the mask on `hello <end>`, nothing cut."""

    token_ids: IntArray  # [T] at most the context
    mask: BoolArray  # [T] True where the token trains; never at position 0
    cut_tokens: int  # what did not fit into the context

    @property
    def trained_tokens(self) -> int:
        """0 for a row that teaches nothing: what should train was cut, or the data calls it bad."""
        return int(self.mask.sum())

    def sample(self, weight: float = 1.0) -> Sample:
        """Something to imitate, with this weight on every token that trains."""
        weights = self.mask.astype(np.float32) * np.float32(weight)
        return Sample(self.token_ids, self.mask, weights, np.zeros(len(self.mask), np.float32))


class Renderer:
    """Renders rows of every shape for one tokenizer. context: most tokens of a row. everything: prompts train, too.

    What is imitated: all of `text`; the assistant's turns of `messages`; completions; `chosen` of preferences; completions
    labelled true; the steps before the first wrong one. Tools' and users' turns never train (unless everything does).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int, everything: bool = False,
                 turns: str = "auto") -> None:
        self.tokenizer, self.context, self.everything, self.turns = tokenizer, context, everything, turns
        self._ends, self._marker = {tokenizer.eos_token_id} - {None}, None
        with contextlib.suppress(UserError):  # the template cannot be rendered at all: each row says so with its number
            self._ends, self._marker = known_ends(tokenizer), closing_marker(tokenizer)
        # What the tokenizer puts before a text: its start token or nothing.
        self._start = [t for t in tokenizer("").input_ids[:1] if t == tokenizer.bos_token_id]

    def __call__(self, row: Row, place: str = "the row") -> list[Rendered]:
        """The row as one text, or as one a turn of the assistant's (see `Chat.pieces`).

        place: which row, for messages. Raises UserError for columns or conversations that cannot be rendered.
        """
        prompt, answer = imitated(row, shape_of(row, place))
        if isinstance(prompt, str) and isinstance(answer, str | None):
            texts = [self._plain(prompt, answer, place)]
        else:
            texts = self._chat(without_none(prompt), without_none(answer), row, place)
        return [self._rendered(ids, trains, answer is not None) for ids, trains in texts]

    def _rendered(self, ids: list[int], trains: list[bool], answered: bool) -> Rendered:
        token_ids, mask = np.array(ids, np.int64), np.array(trains, np.bool_)
        if self.everything and answered:
            mask[:] = True
        mask[:1] = False
        return Rendered(token_ids[: self.context], mask[: self.context], max(0, len(ids) - self.context))

    def _plain(self, prompt: str, answer: str | None, place: str) -> tuple[list[int], list[bool]]:
        """Strings as they are; a start token if the tokenizer uses one, its end token after an answer."""
        text = prompt + (answer or "")
        ids, trains = self._encode(text, [] if answer is None else [(len(prompt), len(text))], place)
        if self._start and ids[:1] != self._start:
            ids, trains = self._start + ids, [False, *trains]
        end = self.tokenizer.eos_token_id
        if answer is not None and end is not None and ids[-1:] != [end]:
            ids, trains = [*ids, end], [*trains, True]
        return ids, trains

    def _chat(self, prompt: Messages, answer: Messages | None, row: Row, place: str) -> list[tuple[list[int], list[bool]]]:
        chat = Chat(self.tokenizer, row, place, self._marker)
        texts: list[tuple[str, list[Span]]]
        if answer is None:
            texts = [(chat.text(prompt, generate=True), [])]
        elif self.everything:
            texts = [chat.whole(prompt, answer)]
        else:
            # A greeting before anybody has asked anything answers no prompt: it is seen and does not train.
            greeting = 0 if prompt else next((i for i, m in enumerate(answer) if m["role"] != "assistant"), 0)
            texts = chat.pieces([*prompt, *answer[:greeting]], answer[greeting:], self.turns)
        return [self._encode(text, spans, place) for text, spans in texts]

    def _encode(self, text: str, spans: Sequence[Span], place: str) -> tuple[list[int], list[bool]]:
        """Token ids of text, and which of them lie in the spans; after a span's end token nothing is sampled or trained."""
        edges = [0, *itertools.chain(*spans), len(text)]
        pieces = self._ids([text[a:b] for a, b in itertools.pairwise(edges)])
        (whole,) = self._ids([text])
        if list(itertools.chain(*pieces)) != whole and not self._same_text(pieces, whole):
            # A tokenizer that treats the start of a text in its own way: cut the whole where its tokens allow it.
            ends = [0]
            for start in self._ids([text[:b] for b in edges[1:]]):
                check(whole[: len(start)] == start, f"{place}: the tokenizer joins what the model writes and what it is given "
                      "into one token, so there is no telling which trains; begin the answer with a space or a line break")
                ends.append(len(start))
            pieces = [whole[a:b] for a, b in itertools.pairwise(ends)]
        trains: list[bool] = []
        for i, piece in enumerate(pieces):
            sampled = _sampled(piece, self._ends) if i % 2 else 0
            trains += [True] * sampled + [False] * (len(piece) - sampled)
        return list(itertools.chain(*pieces)), trains

    def _same_text(self, pieces: list[list[int]], whole: list[int]) -> bool:
        """Whether pieces encoded by themselves read like the whole. Byte-level tokenizers do, some others add spaces."""
        joined = list(itertools.chain(*pieces))
        a, b = (self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (joined, whole))
        return bool(a == b)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        texts = [t.encode(errors="replace").decode() for t in texts]  # halves of surrogate pairs, which JSON can hold, become ?
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def renderer(config: RowOptions, tokenizer: PreTrainedTokenizerBase, context: int) -> Renderer:
    """What renders the rows of a stage for a model with this context."""
    return Renderer(tokenizer, min(config.max_tokens or context, context), config.train_on == "everything", config.turns)


def preview(config: RowOptions, tokenizer: PreTrainedTokenizerBase, context: int, n: int = 64,
            given: Rows | None = None) -> list[Rendered]:
    """The first rows of a stage's data, or of loaded rows instead. Raises UserError, also if they hold nothing to imitate."""
    render = renderer(config, tokenizer, context)
    rows = (first(config.data, n, config.data_split, config.stream, config.columns, config.documents) if given is None
            else first(given, n))
    rendered = [r for i, row in enumerate(rows) for r in render(row, f"{config.data}, row {i}")]
    shape, columns = shape_of(rows[0]), ", ".join(map(str, rows[0]))
    check(any(r.trained_tokens for r in rendered), f"{config.data}: none of the first {len(rows)} rows ({shape}: {columns}) has "
          f"a token to train on within {render.context} tokens; give answers to imitate, or raise max_tokens or the context")
    return rendered


def imitated(row: Row, shape: Shape) -> tuple[Any, Any]:
    """(prompt, answer) of a row that has this shape, each text or messages; answer None: nothing in it is to be imitated."""
    if shape is Shape.TEXT:
        return "", row["text"]
    if shape is Shape.MESSAGES:
        return [], row["messages"]
    if shape is Shape.PREFERENCE:
        return row["prompt"], row["chosen"]
    if shape is Shape.IMPLICIT_PREFERENCE:
        chosen, rejected = row["chosen"], row["rejected"]
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
        return chosen[:common], chosen[common:]
    if shape is Shape.STEPWISE:
        right = list(itertools.takewhile(lambda step: step[1], zip(row["completions"], row["labels"], strict=True)))
        return row["prompt"], "".join(f"{step}\n" for step, _ in right) or None
    wanted = shape is Shape.PROMPT_COMPLETION or (shape is Shape.UNPAIRED_PREFERENCE and bool(row["label"]))
    return row["prompt"], row["completion"] if wanted else None


def _sampled(piece: list[int], ends: Collection[int]) -> int:
    """How many tokens of a turn the policy writes: up to its last end token; all if there is none."""
    return next((i + 1 for i in range(len(piece) - 1, -1, -1) if piece[i] in ends), len(piece))
