"""Micro-batches: nothing lost, nothing twice, within the budget, and every index where it belongs.

Run: .venv/bin/python -m pytest tests/training/test_batch.py   (about 2 s on one core)
"""

from __future__ import annotations

import numpy as np
import pytest
from toys import samples

from outdo.training.batch import micro_batches
from outdo.types import Sample

LENGTHS = [9, 4, 30, 9, 17, 2, 30, 12, 5, 9, 9]


def read_back(batches: list) -> list[tuple[list[int], list[int], list[float], list[float]]]:  # type: ignore[type-arg]
    """Every sequence as (tokens, trained positions, advantages, old log-probs), read from the flat arrays."""
    out = []
    for batch in batches:
        B, T = batch.tokens_BT.shape
        for b in range(B):
            tokens = batch.tokens_BT[b, : batch.lengths_B[b]].tolist()
            assert (batch.tokens_BT[b, batch.lengths_B[b] :] == 0).all()
            mine = [i for i in range(len(batch.targets_N)) if batch.sequence_N[i] == b]
            positions = [int(batch.predicts_N[i]) - b * T + 1 for i in mine]
            assert [tokens[p] for p in positions] == [int(batch.targets_N[i]) for i in mine]
            out.append((tokens, positions, [float(batch.advantages_N[i]) for i in mine],
                        [float(batch.old_logprobs_N[i]) for i in mine]))  # fmt: skip
    return out


@pytest.mark.parametrize("micro_tokens", [1, 18, 27, 60, 10**6])
def test_every_sample_comes_back_once(micro_tokens: int) -> None:
    batch = samples(LENGTHS)
    want = [(s.token_ids.tolist(), np.flatnonzero(s.mask).tolist(), s.advantages[s.mask].tolist(),
             s.logprobs[s.mask].tolist()) for s in batch]  # fmt: skip
    assert sorted(read_back(micro_batches(batch, micro_tokens))) == sorted(want)


@pytest.mark.parametrize("micro_tokens", [1, 18, 27, 60, 10**6])
def test_budget_and_order(micro_tokens: int) -> None:
    """Longest first, at most micro_tokens padded tokens unless a single sequence is longer; no needless cuts."""
    batches = micro_batches(samples(LENGTHS), micro_tokens)
    lengths = [n for b in batches for n in b.lengths_B]
    assert lengths == sorted(LENGTHS, reverse=True)
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        rows, width = batch.tokens_BT.shape
        assert rows * width <= micro_tokens or rows == 1
        assert width == max(batch.lengths_B)
        if following is not None:
            assert (rows + 1) * width > micro_tokens, "one more would have fitted"


def test_equal_lengths_waste_nothing() -> None:
    batches = micro_batches(samples([7] * 40), 100)
    assert sum(b.tokens_BT.numel() for b in batches) == 7 * 40 and {len(b.lengths_B) for b in batches} <= {14, 12}


def test_example_of_the_docstring() -> None:
    """[bos a b | c d]: the positions of b and c predict c and d."""
    mask = np.array([False, False, False, True, True])
    sample = Sample(np.array([1, 5, 6, 7, 8]), mask, np.float32(mask), np.float32(-2.0 * mask))
    (batch,) = micro_batches([sample], 100)
    assert batch.predicts_N.tolist() == [2, 3] and batch.targets_N.tolist() == [7, 8]
    assert batch.old_logprobs_N.tolist() == [-2.0, -2.0] and batch.sequence_N.tolist() == [0, 0]


def test_nothing() -> None:
    assert micro_batches([], 100) == []
