"""What a model thinks of given tokens: log-probabilities by whole forward passes, nothing sampled, no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outdo.models.base import LanguageModel
from outdo.models.flops import causal_attended, forward_flops
from outdo.types import BoolArray, FloatArray, IntArray, Usage

Reading = Callable[[Any, Tensor, Tensor], Tensor]  # (packed weights, hidden [N, D], the tokens that follow [N]) -> [N]


def token_logprobs(model: LanguageModel, dtype: torch.dtype, rows: Sequence[tuple[IntArray, BoolArray]], batch_tokens: int,
                   temperature: float = 1.0) -> tuple[list[FloatArray], Usage]:
    """Of each row (token ids [T], mask [T]) the float32 log-probs of its masked tokens, and what it cost.

    A row's first token has nothing before it and is never masked.
    """
    def logprobs(packed: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        return model.logprobs(packed, hidden, targets, temperature)

    return read(model, dtype, rows, batch_tokens, logprobs)


@torch.inference_mode()
def read(model: LanguageModel, dtype: torch.dtype, rows: Sequence[tuple[IntArray, BoolArray]], batch_tokens: int,
         reading: Reading, outputs: int | None = None) -> tuple[list[FloatArray], Usage]:
    """What `reading` says in front of each masked token, and what it cost.

    Rows of like length are computed together, up to batch_tokens with their padding. outputs: as `forward_flops` has it.
    """
    packed, out = model.pack(dtype), [np.zeros(0, np.float32) for _ in rows]
    left = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    while left:
        T = len(rows[left[0]][0])
        n = max(1, batch_tokens // T)
        some, left = left[:n], left[n:]
        tokens, mask = np.zeros((len(some), T), np.int64), np.zeros((len(some), T), bool)
        for r, i in enumerate(some):
            ids, wanted = rows[i]
            tokens[r, : len(ids)], mask[r, : len(ids)] = ids, wanted
        at = np.flatnonzero(mask)
        if not len(at):
            continue
        tokens_BT, at_N = (torch.from_numpy(a).to(model.device) for a in (tokens, at))
        hidden = model.hidden(packed, tokens_BT, wanted_N=at_N - 1)
        found = reading(packed, hidden, tokens_BT.flatten()[at_N]).cpu().numpy()
        for i, own in zip(some, np.split(found, np.cumsum(mask.sum(1))[:-1]), strict=True):
            out[i] = own
    lengths, wanted_tokens = [len(ids) for ids, _ in rows], int(sum(m.sum() for _, m in rows))
    flops = forward_flops(model.config, sum(lengths), sum(map(causal_attended, lengths)), wanted_tokens, outputs)
    return out, Usage(prefill_tokens=sum(lengths), prefill_flops=flops)
