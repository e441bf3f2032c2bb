"""Log-probabilities of chosen tokens without keeping a float32 copy of all logits: vocabularies are large.

Forward and backward go through the rows in chunks. Kept between the two are the logits in the compute dtype: computed anew in the
backward pass they would cost a third more arithmetic. The backward pass can be run once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outdo.models.ops import weight_gradient

_CHUNK_BYTES = 1 << 25  # of float32 logits at a time


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
        logits = F.linear(hidden, head)
        out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(out)
        for part in _chunks(logits):
            scaled = _scaled(logits[part], temperature)
            normaliser[part] = torch.logsumexp(scaled, dim=-1)
            out[part] = scaled.gather(1, targets[part, None]).squeeze(1) - normaliser[part]
        ctx.save_for_backward(hidden, head, targets, logits, normaliser)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, head, targets, logits, normaliser = ctx.saved_tensors
        scaled_grad = (grad / ctx.temperature)[:, None]
        for part in _chunks(logits):
            p = _scaled(logits[part], ctx.temperature).sub_(normaliser[part, None]).exp_().mul_(-scaled_grad[part])
            logits[part] = p.scatter_add_(1, targets[part, None], scaled_grad[part])  # their gradient takes their place
        return logits @ head, weight_gradient(logits, hidden), None, None


def _chunks(logits: Tensor) -> list[slice]:
    rows = max(1, _CHUNK_BYTES // (4 * logits.shape[1]))
    return [slice(i, i + rows) for i in range(0, len(logits), rows)]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    scaled = logits.to(torch.float32, copy=True)
    return scaled if temperature == 1.0 else scaled.div_(temperature)


def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """log softmax(hidden @ head' / temperature) at the targets: [N, D], [V, D], [N] -> float32 [N]."""
    out: Tensor = _TokenLogprobs.apply(hidden, head, targets, temperature)  # type: ignore[no-untyped-call]
    return out
