"""The loss on held-out rows: against a row at a time, and its interval against what is known of it.

    pytest tests/test_loss.py
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toys import decoder, samples

from outdo.evaluation.loss import heldout_loss, ratio_interval, summarise
from outdo.evaluation.stats import mean_interval
from outdo.models.flops import causal_attended, forward_flops
from outdo.types import Sample

MODEL = decoder()
ROWS = samples([5, 31, 2, 17, 31, 9, 12])


@torch.no_grad()
def nats(s: Sample) -> float:
    """Of the row alone, unpacked."""
    packed, ids = MODEL.pack(torch.float32), torch.from_numpy(s.token_ids)
    logprobs = torch.log_softmax(MODEL.logits(packed, MODEL.hidden(packed, ids[None]))[0, :-1], dim=-1)
    return float(-logprobs.gather(1, ids[1:, None])[:, 0][torch.from_numpy(s.mask[1:])].sum())


@pytest.mark.parametrize("micro_tokens", [1, 64, 4096])
def test_against_rows_alone(micro_tokens: int) -> None:
    record, usage = heldout_loss(MODEL, torch.float32, ROWS, micro_tokens)
    want, tokens = np.array([nats(s) for s in ROWS]), np.array([s.mask.sum() for s in ROWS])
    np.testing.assert_allclose(record["items"], want / tokens, rtol=1e-5, atol=1e-5)
    assert record["value"] == pytest.approx(want.sum() / tokens.sum(), rel=1e-5)
    assert record["row_tokens"] == tokens.tolist() and record["n"] == 7 and record["extra"] == {"tokens": tokens.sum()}
    assert record["ci95"][0] < record["value"] < record["ci95"][1] and json.dumps(record)
    lengths = [len(s.token_ids) for s in ROWS]
    assert usage.prefill_tokens == sum(lengths) and usage.train_tokens == 0
    assert usage.flops == forward_flops(MODEL.config, sum(lengths), sum(map(causal_attended, lengths)), tokens.sum())


def test_the_interval() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, 400)
    same = ratio_interval(7 * x, np.full(400, 7))
    np.testing.assert_allclose(same, mean_interval(x)[1:3], rtol=0.01)  # type: ignore[arg-type]  # a mean, if all weigh the same
    assert ratio_interval([4.0, 2.0], [2, 1]) == (2.0, 2.0) and ratio_interval([4.0], [2]) is None
    tokens = rng.integers(1, 50, (300, 60))
    inside = [low < 2.0 < high for t in tokens for low, high in [ratio_interval(t * rng.normal(2, 1, 60), t, 400) or (0, 0)]]
    assert 0.89 < np.mean(inside) < 0.98, "it holds what it should about as often as it says"


def test_seeds_are_drawn_too() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 50, 200)
    nats = tokens * rng.normal([[1.5], [2.0], [2.5]], 0.1, (3, 200))
    low, high = ratio_interval(nats, tokens) or (0, 0)
    assert 1.45 < low < 1.75 and 2.25 < high < 2.55, "seeds that far apart say little about the next"
    assert ratio_interval(nats[:1], tokens) == ratio_interval(nats[0], tokens)


def test_a_change_is_paired() -> None:
    """Rows differ by nats, all get better by a tenth: the change is known far better than the level."""
    start, _ = heldout_loss(MODEL, torch.float32, ROWS)
    end = {**start, "items": [x - 0.1 for x in start["items"]], "value": start["value"] - 0.1}
    found = summarise([start], [end])
    assert found["change"]["value"] == pytest.approx(-0.1) and found["change"]["ci95"] == pytest.approx((-0.1, -0.1))
    assert found["value"] == end["value"] and found["n"] == 7 and found["tokens"] == start["extra"]["tokens"]
