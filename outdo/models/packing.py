"""Parameters -> compute weights: parts of a packed matrix scaled, reordered, cast and laid one below the other, and the way back.

Eager PyTorch takes a dozen small operations for each matrix, forth and back, and float32 copies between them. A compiled kernel
does each part in one walk (`outdo.kernels`); its slow twin is `_by_torch`, compared in tests/parity.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdo import kernels


class Part(NamedTuple):
    """Rows of a packed matrix."""

    weight: Tensor  # [F, D]
    pairs: int = 0  # size of heads in which row i and row i + size / 2 become neighbours; 0: none
    scale: float = 1.0


def pair_up(weight: Tensor, d: int) -> Tensor:
    """Rows of [heads * d, ...] reordered so that row i and row i + d/2 of each head become neighbours."""
    return weight.view(-1, 2, d // 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def stack(parts: tuple[Part, ...], norm: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[sum of F, D] of dtype: each part's columns times norm [D] (None: as they are), its rows in pairs, times its scale.

    Differentiable with respect to weights and norm; autograd keeps nothing but these.
    """
    weights = [p.weight for p in parts]
    tensors = weights if norm is None else [*weights, norm]
    if kernels.usable(weights[0].device, dtype) and all(x.dtype == torch.float32 and x.is_contiguous() for x in tensors):
        out: Tensor = _Stack.apply(norm, [p[1:] for p in parts], *weights)  # type: ignore[no-untyped-call]
        return out
    return _by_torch(parts, norm, dtype)


def _by_torch(parts: tuple[Part, ...], norm: Tensor | None, dtype: torch.dtype) -> Tensor:
    rows = []
    for weight, pairs, scale in parts:
        scaled = weight if norm is None else weight * norm
        paired = pair_up(scaled, pairs) if pairs else scaled
        rows.append((paired if scale == 1.0 else paired * scale).to(dtype))
    return torch.cat(rows) if len(rows) > 1 else rows[0]


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: Tensor | None, orders: list[tuple[int, float]], *weights: Tensor) -> Tensor:
        ctx.save_for_backward(norm, *weights)
        ctx.orders = orders
        out = weights[0].new_empty(sum(map(len, weights)), weights[0].shape[1], dtype=torch.bfloat16)
        for weight, order, rows in zip(weights, orders, torch.split(out, [len(w) for w in weights]), strict=True):
            kernels.pack_rows(weight, norm, rows, *order)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        norm, *weights = ctx.saved_tensors
        grads = [kernels.pack_rows_backward(rows, weight, norm, *order) for weight, order, rows in
                 zip(weights, ctx.orders, torch.split(grad.contiguous(), [len(w) for w in weights]), strict=True)]
        of_norm = None if norm is None else torch.cat([part for _, part in grads if part is not None]).sum(0)
        return of_norm, None, *(of_weight for of_weight, _ in grads)
