"""Forgetting: how well a model still predicts a fixed text that no stage trains on, in nats per token.

corpus.txt, which comes with outdo, is the first half of "In the Year 2889" by Michel and Jules Verne, written in English for The
Forum of February 1889. It is in the public domain: published before 1931 in the United States, and both authors died more than
seventy years ago (1905, 1925). A story and not, say, documentation: prose is what a model that learns a narrow task drifts from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from outdo.errors import UserError, check
from outdo.evaluation.stats import hierarchical_interval
from outdo.models.base import LanguageModel
from outdo.models.score import token_logprobs
from outdo.types import IntArray, Usage

BUILTIN = "builtin"
PASSAGE_TOKENS = 128
_ROWS = 4  # passages computed together
_LONGEST_TOKEN = 32  # characters: of a large file no more is read than so many tokens can hold


@dataclass(frozen=True)
class Corpus:
    """The text, cut into P passages of equal length that are read apart. sha256: of the text that was cut."""

    name: str
    sha256: str
    passages_PT: IntArray


def load(source: str, most_tokens: int, tokenizer: PreTrainedTokenizerBase, context: int) -> Corpus:
    """The first `most_tokens` tokens of `source` ("builtin" or a UTF-8 file). Raises UserError.

    context: how many tokens the model can read.
    """
    path = Path(__file__).with_name("corpus.txt") if source == BUILTIN else Path(source)
    key = f"evaluation.corpus = {source!r}"
    check(path.is_file(), f"{key}: no such file; give a text file, or {BUILTIN!r}")
    try:
        with path.open(encoding="utf-8") as f:
            text = f.read(_LONGEST_TOKEN * most_tokens)
    except UnicodeDecodeError as e:
        raise UserError(f"{key} is no UTF-8 text ({e.reason} at byte {e.start}); convert it") from None
    begin = tokenizer("")["input_ids"][:1]  # the token that the tokenizer puts before every text, if it does
    tokens = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:most_tokens], np.int64)
    T = min(PASSAGE_TOKENS, context - len(begin))
    P = len(tokens) // T
    check(P >= 2, f"{key} has {len(tokens)} tokens; two passages of {T} are the least, so give a longer text or raise "
                  "evaluation.corpus_tokens")
    unknown = float(np.mean(tokens == tokenizer.unk_token_id)) if tokenizer.unk_token_id is not None else 0.0
    check(unknown < 0.5, f"{key}: {unknown:.0%} of its words are unknown to the model's tokenizer, so there is nothing to "
                         "forget; leave out the corpus")
    passages = np.hstack([np.tile(np.array(begin, np.int64), (P, 1)), tokens[: P * T].reshape(P, T)])
    return Corpus(source, hashlib.sha256(text.encode()).hexdigest(), passages)


def read(model: LanguageModel, dtype: torch.dtype, corpus: Corpus) -> tuple[dict[str, Any], Usage]:
    """{"value": nats per token, "ci95" (bootstrap over passages), "n" passages, "tokens", "items": nats per token of each, ...}.

    Every token of a passage but its first is predicted from those before it.
    """
    P, T = corpus.passages_PT.shape
    wanted = np.arange(T) > 0
    logprobs, usage = token_logprobs(model, dtype, [(p, wanted) for p in corpus.passages_PT], _ROWS * T)
    items = np.round([-x.mean(dtype=np.float64) for x in logprobs], 5)
    return {"value": float(items.mean()), "ci95": list(hierarchical_interval(items)), "n": P, "tokens": P * (T - 1),
            "corpus": corpus.name, "sha256": corpus.sha256, "items": items.tolist()}, usage
