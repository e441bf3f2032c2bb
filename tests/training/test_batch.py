"""Micro-batches: nothing lost, nothing twice, within the budget, and every index where it belongs.

Run: .venv/bin/python -m pytest tests/training/test_batch.py   (about 2 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from toys import samples

from outdo.system.machine import round_rows
from outdo.training.batch import MicroBatch, micro_batches, pack
from outdo.types import Sample

LENGTHS = [9, 4, 30, 9, 17, 2, 30, 12, 5, 9, 9]
BUDGETS = [1, 64, 96, 10**6]


def read_back(batches: Sequence[MicroBatch]) -> list[tuple[list[int], list[int], list[float], list[float]]]:
    """Every sample as (tokens, trained positions, advantages, old log-probs), read from the flat arrays one by one."""
    out = []
    for batch in batches:
        rows, width = batch.tokens_BT.shape
        segments = batch.segments_BT
        if segments is None:
            segments = torch.full((rows, width), -1)
            for number, n in enumerate(batch.lengths):
                segments[number, :n] = number
        assert (batch.tokens_BT[segments < 0] == 0).all()
        for number, length in enumerate(batch.lengths):
            places = torch.nonzero(segments.flatten() == number).flatten().tolist()
            assert len(places) == length and places == list(range(places[0], places[0] + length)), "not side by side"
            assert places[0] // width == places[-1] // width, "cut across rows"
            tokens = batch.tokens_BT.flatten()[places].tolist()
            mine = [i for i in range(len(batch.targets_N)) if batch.sequence_N[i] == number]
            positions = [int(batch.predicts_N[i]) + 1 - places[0] for i in mine]
            assert [tokens[p] for p in positions] == [int(batch.targets_N[i]) for i in mine]
            out.append((tokens, positions, [float(batch.advantages_N[i]) for i in mine],
                        [float(batch.old_logprobs_N[i]) for i in mine]))  # fmt: skip
    return out


@pytest.mark.parametrize("lengths", [LENGTHS, [7] * 40, [100, 1, 1, 1], [5]], ids=["mixed", "equal", "one long", "one"])
@pytest.mark.parametrize("micro_tokens", BUDGETS)
@pytest.mark.parametrize("long", [False, True])
def test_every_sample_comes_back_once(long: bool, micro_tokens: int, lengths: list[int]) -> None:
    batch = samples(lengths)
    want = [(s.token_ids.tolist(), np.flatnonzero(s.mask).tolist(), s.advantages[s.mask].tolist(),
             s.logprobs[s.mask].tolist()) for s in batch]  # fmt: skip
    assert sorted(read_back(micro_batches(batch, micro_tokens, long=long))) == sorted(want)


@pytest.mark.parametrize("micro_tokens", BUDGETS)
def test_budget_and_shapes(micro_tokens: int) -> None:
    """One row length, even; few row counts; pieces of one size; the budget holds but for rounding."""
    batches = micro_batches(samples(LENGTHS), micro_tokens)
    assert {b.tokens_BT.shape[1] for b in batches} == {30}
    for batch in batches:
        rows = batch.tokens_BT.shape[0]
        used = int(batch.lengths.sum())
        assert rows == round_rows(rows) and used <= rows * 30
        assert rows <= round_rows(max(1, micro_tokens // 30))
    if micro_tokens == 96:
        assert [len(b.tokens_BT) for b in batches] == [2, 3], "136 tokens in five rows of 30, three of them too much at once"


def test_short_samples_share_rows() -> None:
    (batch,) = micro_batches(samples([32] + [4] * 24), 10**6)
    assert batch.tokens_BT.shape == (4, 32) and batch.segments_BT is not None
    assert (batch.segments_BT >= 0).all(), "nothing is wasted"


def test_long_rows() -> None:
    """Rows of many samples with little padding, however the lengths fall, and positions that begin anew with each sample."""
    for seed in range(10):
        lengths = np.random.default_rng(seed).integers(55, 98, 48).tolist()
        batches = micro_batches(samples(lengths), 2048, long=True)
        padded = sum(b.tokens_BT.numel() for b in batches)
        assert sum(lengths) <= padded <= 1.08 * sum(lengths)
        assert all(len(b.tokens_BT) <= 4 for b in batches) and len({b.tokens_BT.shape[1] for b in batches}) == 1
        for b in batches:
            assert b.prompts is not None and b.segments_BT is not None and int(b.prompts.parents_BT.max()) == -2
            for number, length in enumerate(b.lengths):
                assert b.prompts.positions_BT[b.segments_BT == number].tolist() == list(range(length))
    (one,) = micro_batches(samples([700, 30]), 10**6, long=True)
    assert one.tokens_BT.shape == (1, 736), "as few rows as the longest allows"


def test_pack_is_first_fit_longest_first() -> None:
    assert pack([5, 9, 3, 2, 7], 10) == [[1], [4, 2], [0, 3]]
    assert pack([], 10) == [] and pack([10, 10], 10) == [[0], [1]]
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 31, 60).tolist()
        rows = pack(lengths, 32)
        assert sorted(i for row in rows for i in row) == list(range(60))
        assert all(sum(lengths[i] for i in row) <= 32 for row in rows)
        assert len(rows) <= 1.25 * -(-sum(lengths) // 32) + 1, "first fit decreasing: at most 11/9 of the best, plus one"


def test_example_of_the_docstring() -> None:
    """[bos a | c] and [bos d] in one row, beside a longer one: a predicts c, the second bos predicts d."""
    mask = np.array([False, False, True])
    first = Sample(np.array([1, 5, 7]), mask, np.float32(mask), np.float32(-2.0 * mask))
    second = Sample(np.array([1, 8]), mask[1:], np.float32(3.0 * mask[1:]), np.float32(-1.0 * mask[1:]))
    nothing = np.zeros(7, np.float32)
    longest = Sample(np.array([1, 2, 2, 2, 2, 2, 2]), nothing > 0, nothing, nothing)
    (batch,) = micro_batches([first, second, longest], 100)
    assert batch.tokens_BT.tolist() == [[1, 2, 2, 2, 2, 2, 2, 0], [1, 5, 7, 1, 8, 0, 0, 0]]
    assert batch.segments_BT is not None
    assert batch.segments_BT.tolist() == [[0] * 7 + [-1], [1, 1, 1, 2, 2, -1, -1, -1]]
    assert batch.predicts_N.tolist() == [9, 11] and batch.targets_N.tolist() == [7, 8]
    assert batch.old_logprobs_N.tolist() == [-2.0, -1.0] and batch.advantages_N.tolist() == [1.0, 3.0]
    assert batch.sequence_N.tolist() == [1, 2] and batch.lengths.tolist() == [7, 3, 2]


def test_nothing() -> None:
    assert micro_batches([], 100) == []
