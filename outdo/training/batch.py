"""From samples to micro-batches: short sequences share rows, rows share micro-batches, shapes stay few.

A row is as long as the longest sample; shorter samples fill the rest of it, each blind to its neighbours. Rotary positions
are relative, so a sample computes the same wherever in a row it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from outdo.machine import round_rows
from outdo.types import IntArray, Sample


@dataclass(frozen=True)
class MicroBatch:
    """Samples packed into rows [B, T], and the N tokens that train in them.

    Example, one row with samples [bos a | c] and [bos d], the masks on c and d: tokens [bos a c bos d 0 ...], segments
    [0 0 0 1 1 -1 ...], predicts_N the flat positions of a and of the second bos, targets_N [c, d], sequence_N [0, 1].
    """

    tokens_BT: Tensor  # int64, 0 where nothing is
    segments_BT: Tensor | None  # int64, which sample a position belongs to, -1 for none; None: one sample per row
    predicts_N: Tensor  # int64, flat index b * T + t of the position whose output predicts a trained token
    targets_N: Tensor  # int64, the trained tokens
    old_logprobs_N: Tensor  # float32
    advantages_N: Tensor  # float32
    sequence_N: Tensor  # int64, number of the sample within the micro-batch
    returns_N: Tensor  # float32, what a critic should say; 0 without one
    lengths: IntArray  # true lengths of the samples


def micro_batches(samples: Sequence[Sample], micro_tokens: int) -> list[MicroBatch]:
    """Cut samples into micro-batches of about micro_tokens positions each (always at least one row)."""
    if not samples:
        return []
    T = _round_length(max(len(s.token_ids) for s in samples))
    rows = pack([len(s.token_ids) for s in samples], T)
    pieces = min(len(rows), -(-len(rows) * T // micro_tokens))
    ends = [len(rows) * i // pieces for i in range(pieces + 1)]  # of one size: a small rest would waste its padding
    parts = [rows[start:end] for start, end in itertools.pairwise(ends)]
    return [_collate([[samples[j] for j in row] for row in part], T) for part in parts]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit, longest first: rows of indices whose lengths sum to at most capacity."""
    rows: list[list[int]] = []
    room: list[int] = []
    shortest = min(lengths, default=0)
    open_rows: list[int] = []  # rows with room for at least the shortest
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r in open_rows if room[r] >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
            open_rows.append(row)
        rows[row].append(i)
        room[row] -= lengths[i]
        if room[row] < shortest:
            open_rows.remove(row)
    return rows


def _round_length(tokens: int) -> int:
    """Few lengths, for the reason that `machine.round_rows` gives; at most a sixteenth more."""
    step = 2 if tokens <= 128 else 8 if tokens <= 512 else 32
    return -(-tokens // step) * step


def _collate(rows: Sequence[Sequence[Sample]], T: int) -> MicroBatch:
    B = round_rows(len(rows))
    tokens, segments = np.zeros((B, T), np.int64), np.full((B, T), -1, np.int64)
    mask = np.zeros((B, T), bool)
    old, advantages, returns = (np.zeros((B, T), np.float32) for _ in range(3))
    lengths: list[int] = []
    for b, row in enumerate(rows):
        at = 0
        for s in row:
            end = at + len(s.token_ids)
            tokens[b, at:end], mask[b, at:end], segments[b, at:end] = s.token_ids, s.mask, len(lengths)
            old[b, at:end], advantages[b, at:end] = s.logprobs, s.advantages
            if s.returns is not None:
                returns[b, at:end] = s.returns
            lengths.append(end - at)
            at = end
    row_N, column_N = np.nonzero(mask)
    alone = all(len(row) == 1 for row in rows)
    return MicroBatch(
        tokens_BT=torch.from_numpy(tokens),
        segments_BT=None if alone else torch.from_numpy(segments),
        predicts_N=torch.from_numpy(row_N * T + column_N - 1),
        targets_N=torch.from_numpy(tokens[row_N, column_N]),
        old_logprobs_N=torch.from_numpy(old[row_N, column_N]),
        advantages_N=torch.from_numpy(advantages[row_N, column_N]),
        sequence_N=torch.from_numpy(segments[row_N, column_N]),
        returns_N=torch.from_numpy(returns[row_N, column_N]),
        lengths=np.array(lengths),
    )
