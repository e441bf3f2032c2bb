"""How well a model predicts what rows of data want to be imitated: nats per trained token on rows that never train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from outdo.models.base import LanguageModel
from outdo.models.score import token_logprobs
from outdo.types import Sample, Usage

DECODE = "loss"  # what stands in an evaluation's record where others say how they sampled


def ratio_interval(sums_R: ArrayLike, counts_R: ArrayLike, draws: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval, over rows, of sum(sums) / sum(counts); None for a single row, which says nothing of others."""
    sums, counts = np.asarray(sums_R, np.float64), np.asarray(counts_R, np.float64)
    R = len(sums)
    if R < 2:
        return None
    drawn_DR = np.random.default_rng(seed).multinomial(R, np.full(R, 1 / R), draws).astype(np.float64)
    low, high = np.quantile((drawn_DR @ sums) / (drawn_DR @ counts), [0.025, 0.975])
    return float(low), float(high)


def heldout_loss(model: LanguageModel, dtype: torch.dtype, samples: Sequence[Sample],
                 micro_tokens: int = 4096) -> tuple[dict[str, Any], Usage]:
    """A record for evaluations.jsonl, and what it cost. Every sample has tokens that train.

    {"metric": "loss", "value": nats per trained token, "ci95" over rows, "n" rows, "items": nats per token of each row,
    "extra": {"tokens": all that train}, "row_tokens": of each row}.
    """
    logprobs, usage = token_logprobs(model, dtype, [(s.token_ids, s.mask) for s in samples], micro_tokens)
    nats_R, tokens_R = (np.array([f(x) for x in logprobs]) for f in (lambda x: -x.sum(dtype=np.float64), len))
    trained = int(tokens_R.sum())
    record = {"metric": "loss", "value": float(nats_R.sum() / trained), "ci95": ratio_interval(nats_R, tokens_R),
              "n": len(samples), "extra": {"tokens": trained}, "items": np.round(nats_R / tokens_R, 6).tolist(),
              "row_tokens": tokens_R.tolist()}
    return record, usage


def summarise(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """A stage's first and last record -> the loss at its end, and how far it came on the same rows (paired interval)."""
    tokens = np.array(last["row_tokens"])
    fell_R = (np.array(last["items"]) - np.array(first["items"])) * tokens
    return {"value": last["value"], "ci95": last["ci95"], "n": last["n"], "tokens": last["extra"]["tokens"],
            "change": {"value": last["value"] - first["value"], "ci95": ratio_interval(fell_R, tokens)}}
