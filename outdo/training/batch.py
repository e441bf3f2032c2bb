"""From samples to micro-batches: sorted by length, cut by a token budget, padded on the right to the longest of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from outdo.types import IntArray, Sample


@dataclass(frozen=True)
class MicroBatch:
    """B sequences padded to T, and the N tokens that train in them.

    Example, sequence [bos a b | c d] with mask on c, d: predicts holds the flat positions of b and c, targets [c, d].
    """

    tokens_BT: Tensor  # int64, padded with 0 behind each sequence's end
    predicts_N: Tensor  # int64, flat index b * T + t of the position whose output predicts a trained token
    targets_N: Tensor  # int64, the trained tokens
    old_logprobs_N: Tensor  # float32
    advantages_N: Tensor  # float32
    sequence_N: Tensor  # int64, b
    lengths_B: IntArray  # true lengths


def micro_batches(samples: Sequence[Sample], micro_tokens: int) -> list[MicroBatch]:
    """Cut samples into micro-batches of at most micro_tokens padded tokens each (always at least one sample).

    Neighbours in length share a micro-batch: games of one length waste no padding at all.
    """
    order = sorted(range(len(samples)), key=lambda i: (-len(samples[i].token_ids), i))
    out: list[MicroBatch] = []
    batch: list[int] = []
    for i in order:
        longest = len(samples[batch[0]].token_ids) if batch else len(samples[i].token_ids)
        if batch and longest * (len(batch) + 1) > micro_tokens:
            out.append(_collate([samples[j] for j in batch]))
            batch = []
        batch.append(i)
    if batch:
        out.append(_collate([samples[j] for j in batch]))
    return out


def _collate(samples: Sequence[Sample]) -> MicroBatch:
    lengths = np.array([len(s.token_ids) for s in samples])
    B, T = len(samples), int(lengths.max())
    tokens, mask = np.zeros((B, T), np.int64), np.zeros((B, T), bool)
    old, advantages = np.zeros((B, T), np.float32), np.zeros((B, T), np.float32)
    for b, s in enumerate(samples):
        n = lengths[b]
        tokens[b, :n], mask[b, :n], old[b, :n], advantages[b, :n] = s.token_ids, s.mask, s.logprobs, s.advantages
    row, column = np.nonzero(mask)
    return MicroBatch(
        tokens_BT=torch.from_numpy(tokens),
        predicts_N=torch.from_numpy(row * T + column - 1),
        targets_N=torch.from_numpy(tokens[row, column]),
        old_logprobs_N=torch.from_numpy(old[row, column]),
        advantages_N=torch.from_numpy(advantages[row, column]),
        sequence_N=torch.from_numpy(row.astype(np.int64)),
        lengths_B=lengths,
    )
