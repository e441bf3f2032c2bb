"""What a layer does behind its attention in one go: project, add, normalise, SwiGLU, add, normalise.

Operation by operation every result goes through memory and back. The compiled kernel takes a few rows at a time through all
of them, so that what lies between the products stays in the processor's cache. Its slow twin is the composition of
`outdo.models.ops` in `Decoder.after_attention`, compared in tests/parity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from outdo import kernels
from outdo.models.ops import Matrix, apply, weight_gradient

_FEW_ROWS = 64  # fewer are bound by reading the weights


def fuses(x: Tensor, mixed: Tensor, down: Matrix) -> bool:
    """Whether `after_attention` is there for x [..., D], mixed [..., A] and the weight [D, F].

    With weights in panels it computes the same bits as operation by operation, so that there the number of threads may decide:
    few rows are few parts of work.
    """
    if not kernels.usable(x.device, x.dtype):
        return False
    sampling = isinstance(down, kernels.Panels)
    width = 2 * down.panels.shape[1] if isinstance(down, kernels.Panels) else down.shape[1]
    enough = x.numel() >= _FEW_ROWS * x.shape[-1] * (torch.get_num_threads() if sampling else 1)
    return enough and not (x.shape[-1] | mixed.shape[-1] | width) % 2


def after_attention(x: Tensor, mixed: Tensor, o: Matrix, gate_up: Matrix, down: Matrix, eps: float) -> tuple[Tensor, Tensor]:
    """x [..., D], mixed [..., A], o [D, A], gate_up [2 F, D], down [D, F] -> x of the next layer, and it normalised."""
    out: tuple[Tensor, Tensor] = apply(_AfterAttention, x, mixed, o, gate_up, down, eps)
    return out


def _panels(weight: Matrix) -> kernels.Panels:
    return weight if isinstance(weight, kernels.Panels) else kernels.pack(weight)


class _AfterAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mixed: Tensor, o: Matrix, gate_up: Matrix, down: Matrix,
                eps: float) -> tuple[Tensor, Tensor]:
        mixed = mixed.contiguous()
        panels = _panels(o), _panels(gate_up), _panels(down)
        total, y, between = kernels.after_attention(x.contiguous(), mixed, *panels, eps, any(ctx.needs_input_grad))
        if between is not None:
            ctx.set_materialize_grads(False)  # of the last total, which nobody uses
            ctx.save_for_backward(mixed, o, gate_up, down, *between)
        return total, y

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
        mixed, o, gate_up, down, *rest = ctx.saved_tensors
        between = kernels.Between(*rest)
        grad_y = torch.zeros_like(between.y) if grad_y is None else grad_y.contiguous()
        beside = None if grad_total is None else grad_total.contiguous()
        panels = kernels.pack_across(o), kernels.pack_across(gate_up), kernels.pack_across(down)
        of_total, hidden, of_inner, of_first, of_mixed = kernels.after_attention_backward(grad_y, beside, *panels, between)
        pairs = ((of_first, mixed), (of_inner, between.y1), (of_total, hidden))
        of_weights = (weight_gradient(*pair) if wanted else None
                      for pair, wanted in zip(pairs, ctx.needs_input_grad[2:5], strict=True))
        return of_first, of_mixed, *of_weights, None
