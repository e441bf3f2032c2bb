"""Conversations whose replies a test decides, with SmolLM2's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from outdo.tasks.dataset import Dataset
from outdo.text import chat
from outdo.types import Prompt

END = 2  # <|im_end|>


def bound(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]] | None = None, **options: Any) -> Dataset:
    if options.pop("given", True):  # else the options name a file
        rows = rows or [{"prompt": [{"role": "user", "content": "6*7?"}]}]
    task = Dataset.of(rows, **{"validation": 0.0, "heldout": 0.0, "max_new_tokens": 96, "max_turns": 3, **options})
    task.bind(tokenizer)
    return task


def converse(task: Dataset, prompt: Prompt, replies: Sequence[str],
             stop: bool = True) -> tuple[list[int], list[bool], dict[str, Any]]:
    """Token ids, mask and info of an episode in which the policy says this."""
    tokenizer, episodes = task.tokenizer(), task.episodes([prompt], np.arange(1))
    ids, mask = prompt.token_ids.tolist(), [False] * len(prompt.token_ids)
    for i, said in enumerate(replies):
        reply = [*chat.encode(tokenizer, said).tolist(), *[END] * stop]
        padded = np.full((1, task.turn_tokens), -1)
        padded[0, : len(reply)] = reply
        observed, done = episodes.step(np.array([0]), padded)
        ids += reply + observed[0].tolist()
        mask += [True] * len(reply) + [False] * observed.shape[1]
        assert done[0] == (i == len(replies) - 1), "over too soon or too late"
    return ids, mask, episodes.info(0)
