"""From samples to micro-batches: short sequences share rows, rows share micro-batches, shapes stay few.

Samples that begin with the same prompt share it: it lies once in their row, each sample's own tokens see it and not each other.

A row is as long as the longest sample; shorter samples fill the rest of it, each blind to its neighbours. Rotary positions
are relative, so a sample computes the same wherever in a row it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from outdo.models.base import Prompts
from outdo.system.machine import round_rows
from outdo.types import IntArray, Sample

_SHARED_TOKENS = 16  # shorter prompts are not worth it
_LONG_ROW, _LONG_STEP = 512, 16  # tokens
_FAMILY_TOKENS = 512  # longest row that sharing makes: without compiled kernels attention looks at every pair of a row


@dataclass(frozen=True)
class Family:
    """Samples that begin with the same `shared` tokens, or one sample and 0."""

    samples: Sequence[Sample]
    shared: int

    @property
    def tokens(self) -> int:
        return self.shared + sum(len(s.token_ids) - self.shared for s in self.samples)


@dataclass(frozen=True)
class MicroBatch:
    """Samples packed into rows [B, T], and the N tokens that train in them.

    Example, one row with samples [bos a | c] and [bos d], the masks on c and d: tokens [bos a c bos d 0 ...], segments
    [0 0 0 1 1 -1 ...], predicts_N the flat positions of a and of the second bos, targets_N [c, d], sequence_N [0, 1].
    """

    tokens_BT: Tensor  # int64, 0 where nothing is
    segments_BT: Tensor | None  # int64, which segment a position belongs to, -1 for none; None: one sample per row
    prompts: Prompts | None  # where samples share one, or rows are long: what else a position sees, where in its sample it lies
    predicts_N: Tensor  # int64, flat index b * T + t of the position whose output predicts a trained token
    targets_N: Tensor  # int64, the trained tokens
    old_logprobs_N: Tensor  # float32
    advantages_N: Tensor  # float32
    sequence_N: Tensor  # int64, number of the sample within the micro-batch
    returns_N: Tensor | None  # float32, what a critic should say; None without one
    ref_logprobs_N: Tensor | None  # float32, under the reference policy; None without one
    lengths: IntArray  # position behind the last of each segment: the samples by number, then the shared prompts
    begins: IntArray  # position of the first: how much of the sample is a shared prompt
    taught_ids_NK: Tensor | None = None  # int64, a teacher's likeliest tokens, if the samples hold them
    taught_logprobs_NK: Tensor | None = None  # float32, and its log-probabilities of them

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        moved: dict[str, Tensor] = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        prompts = None if self.prompts is None else Prompts(*(x.to(device) for x in self.prompts))
        return replace(self, prompts=prompts, **moved)  # type: ignore[arg-type]


def micro_batches(samples: Sequence[Sample], micro_tokens: int, share: bool = False, long: bool = False) -> list[MicroBatch]:
    """Cut samples into micro-batches of about micro_tokens positions each (always at least one row).

    share: compute a prompt once for the samples that begin with it. long: rows may be longer than any sample, with hardly any
    padding, for a model to which what a token does not see costs nothing.
    """
    if not samples:
        return []
    whole = families(samples, share)
    lengths = [f.tokens for f in whole]
    T, rows = _long_rows(lengths) if long else _rows(lengths)
    pieces = min(len(rows), -(-len(rows) * T // micro_tokens))
    ends = [len(rows) * i // pieces for i in range(pieces + 1)]  # of one size: a small rest would waste its padding
    parts = [rows[start:end] for start, end in itertools.pairwise(ends)]
    return [_collate([[whole[j] for j in row] for row in part], T, long, share) for part in parts]


def families(samples: Sequence[Sample], share: bool = True) -> list[Family]:
    """Samples by what comes before their first token that trains, cut into equal parts of about _FAMILY_TOKENS.

    share: False keeps every sample by itself.
    """
    if any(s.pair is not None for s in samples):
        return _pairs(samples, share)
    if not share:
        return [Family([s], 0) for s in samples]
    same: dict[bytes, list[Sample]] = {}
    for s in samples:
        same.setdefault(s.token_ids[: _prompt(s)].tobytes(), []).append(s)
    out = []
    for members in same.values():
        shared = _prompt(members[0])
        if shared < _SHARED_TOKENS:
            out += [Family([s], 0) for s in members]
            continue
        room = max(_FAMILY_TOKENS, *(len(s.token_ids) for s in members)) - shared
        parts = min(len(members), -(-sum(len(s.token_ids) - shared for s in members) // room))
        ends = [len(members) * i // parts for i in range(parts + 1)]
        out += [Family(members[start:end], shared if end - start > 1 else 0) for start, end in itertools.pairwise(ends)]
    return out


def _pairs(samples: Sequence[Sample], share: bool) -> list[Family]:
    """Samples with the same `pair` stay together, with what they begin with shared where that is worth it."""
    pairs: dict[int | None, list[Sample]] = {}
    for i, s in enumerate(samples):
        pairs.setdefault(-1 - i if s.pair is None else s.pair, []).append(s)
    out = []
    for members in pairs.values():
        shared = min(map(_prompt, members))
        same = len(members) > 1 and all(np.array_equal(s.token_ids[:shared], members[0].token_ids[:shared]) for s in members)
        out.append(Family(members, shared if share and same and shared >= _SHARED_TOKENS else 0))
    return out


def _prompt(s: Sample) -> int:
    """Tokens before the first that trains; 0 where none does."""
    return int(s.mask.argmax())


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


def _rows(lengths: Sequence[int]) -> tuple[int, list[list[int]]]:
    """Rows as long as the longest."""
    T = _round_length(max(lengths))
    return T, pack(lengths, T)


def _long_rows(lengths: Sequence[int]) -> tuple[int, list[list[int]]]:
    """Rows of about _LONG_ROW tokens or the longest, as little longer as it takes to fill them."""
    total, longest = sum(lengths), max(lengths)
    count = max(1, total // max(_LONG_ROW, longest))
    T = _round_up(max(longest, -(-total // count)))
    while len(rows := pack(lengths, T)) > count:
        T += _LONG_STEP
    return T, rows


def _round_up(tokens: int) -> int:
    return -(-tokens // _LONG_STEP) * _LONG_STEP


def _round_length(tokens: int) -> int:
    """Few lengths, for the reason that `machine.round_rows` gives; at most a sixteenth more."""
    step = 2 if tokens <= 128 else 8 if tokens <= 512 else 32
    return -(-tokens // step) * step


def _collate(rows: Sequence[Sequence[Family]], T: int, long: bool, share: bool) -> MicroBatch:
    B, samples = len(rows) if long else round_rows(len(rows)), [s for row in rows for family in row for s in family.samples]
    shared = [family.shared for row in rows for family in row if family.shared]
    tokens, segments, parents, positions = (np.full((B, T), fill, np.int64) for fill in (0, -1, -2, 0))
    before = np.arange(B * T).reshape(B, T) - 1  # flat position of the token that predicts this one
    mask = np.zeros((B, T), bool)
    old, advantages, returns, reference = (np.zeros((B, T), np.float32) for _ in range(4))
    begins: list[int] = []
    prompt = len(samples)  # the next shared prompt's segment
    for b, row in enumerate(rows):
        at = 0
        for family in row:
            p, last = family.shared, at + family.shared - 1
            if p:
                at += p
                tokens[b, at - p : at], segments[b, at - p : at] = family.samples[0].token_ids[:p], prompt
                positions[b, at - p : at] = np.arange(p)
            for s in family.samples:
                end = at + len(s.token_ids) - p
                tokens[b, at:end], mask[b, at:end], segments[b, at:end] = s.token_ids[p:], s.mask[p:], len(begins)
                old[b, at:end], advantages[b, at:end] = s.logprobs[p:], s.advantages[p:]
                positions[b, at:end] = np.arange(p, len(s.token_ids))
                if p:
                    parents[b, at:end], before[b, at] = prompt, b * T + last
                if s.returns is not None:
                    returns[b, at:end] = s.returns[p:]
                if s.ref_logprobs is not None:
                    reference[b, at:end] = s.ref_logprobs[p:]
                begins.append(p)
                at = end
            prompt += p > 0
    row_N, column_N = np.nonzero(mask)
    crowded = any(len(family.samples) > 1 for row in rows for family in row)  # rows may be longer than the context
    alone = all(len(row) == 1 for row in rows) and not crowded
    referred = any(s.ref_logprobs is not None for s in samples)
    taught = [s.taught for s in samples if s.taught is not None]  # tokens of a row lie in it in the order of its samples
    return MicroBatch(
        tokens_BT=torch.from_numpy(tokens),
        segments_BT=None if alone else torch.from_numpy(segments),
        prompts=Prompts(torch.from_numpy(parents), torch.from_numpy(positions)) if long or (share and crowded) else None,
        predicts_N=torch.from_numpy(before[row_N, column_N]),
        targets_N=torch.from_numpy(tokens[row_N, column_N]),
        old_logprobs_N=torch.from_numpy(old[row_N, column_N]),
        advantages_N=torch.from_numpy(advantages[row_N, column_N]),
        sequence_N=torch.from_numpy(segments[row_N, column_N]),
        returns_N=torch.from_numpy(returns[row_N, column_N]) if any(s.returns is not None for s in samples) else None,
        ref_logprobs_N=torch.from_numpy(reference[row_N, column_N]) if referred else None,
        lengths=np.array([*(len(s.token_ids) for s in samples), *shared]),
        begins=np.array(begins + [0] * len(shared)),
        taught_ids_NK=torch.from_numpy(np.concatenate([t.ids for t in taught])) if taught else None,
        taught_logprobs_NK=torch.from_numpy(np.concatenate([t.logprobs for t in taught])) if taught else None,
    )
