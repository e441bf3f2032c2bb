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


def ratio_interval(sums_SR: ArrayLike, counts_R: ArrayLike, draws: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of sum(sums) / sum(counts), over rows, and over seeds where there are several.

    sums: [seeds, rows] or [rows]. None for a single row, which says nothing of others.
    """
    sums, counts = np.atleast_2d(np.asarray(sums_SR, np.float64)), np.asarray(counts_R, np.float64)
    S, R = sums.shape
    if R < 2:
        return None
    rng = np.random.default_rng(seed)
    rows_DR = rng.multinomial(R, np.full(R, 1 / R), draws).astype(np.float64)
    seeds_DS = rng.multinomial(S, np.full(S, 1 / S), draws) / S if S > 1 else np.ones((draws, 1))
    low, high = np.quantile(((seeds_DS @ sums) * rows_DR).sum(1) / (rows_DR @ counts), [0.025, 0.975])
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


def summarise(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A stage's first and last records, one of each per seed -> the loss at its end, and how far it came on the same rows."""
    tokens = np.array(last[0]["row_tokens"])
    begin, end = (np.array([r["items"] for r in records]) * tokens for records in (first, last))
    values = [float(np.mean([r["value"] for r in records])) for records in (first, last)]
    return {"value": values[1], "ci95": ratio_interval(end, tokens), "n": last[0]["n"], "tokens": last[0]["extra"]["tokens"],
            "change": {"value": values[1] - values[0], "ci95": ratio_interval(end - begin, tokens)}}
