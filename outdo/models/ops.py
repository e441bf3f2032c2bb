"""Element-wise pieces of the decoder with hand-written backward passes.

Eager PyTorch walks memory once per operation; at widths of a few hundred that walking took half of a training step on a
CPU. Each function here saves what its backward needs and no more. Their slow twins are in tests/parity.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    out: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]
    return out


class _RmsNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        inverse = square.div_(width).add_(eps).rsqrt_().to(x.dtype)
        y: Tensor = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True, dtype=torch.float32).to(y.dtype)
        return torch.addcmul(grad, y, along, value=-1).mul_(inverse), None


def rms_normalize(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, without a weight; the statistics in float32."""
    return _apply(_RmsNormalize, x, eps)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up. The two arrive apart: halves of one matrix are strided, and strided bf16 is four times slower."""
    return _apply(_SwiGLU, gate, up)


def _turn(x: Tensor, turn: Tensor) -> Tensor:
    pairs = x.float().reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    turned = torch.view_as_complex(pairs.contiguous()) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return _turn(x, turn)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (turn,) = ctx.saved_tensors
        return _turn(grad, turn.conj()), None


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions: x [..., T, d] in neighbouring pairs, turn complex64 broadcast to [..., T, d / 2].

    Checkpoints keep the two numbers of a pair d / 2 apart; packing lays them side by side, which leaves every q . k as it
    was and makes the rotation one complex product. The result is contiguous.
    """
    return _apply(_Rotate, x, turn)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = torch.softmax(scores.float(), dim=-1).to(scores.dtype)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        out: Tensor = torch.ops.aten._softmax_backward_data(grad.contiguous(), weights, -1, weights.dtype)
        return out


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension, computed in float32, kept in the dtype of the scores."""
    return _apply(_Softmax, scores)
