"""Element-wise pieces of the decoder with hand-written backward passes.

Eager PyTorch walks memory once per operation; at widths of a few hundred that walking took half of a training step on a
CPU. Each function here saves what its backward needs and no more. Their slow twins are in tests/parity. Where torch has a fused
kernel for GPUs, tensors that lie on one take it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _NoContext:
    """What `forward` writes to where nobody will ask for a gradient."""

    def save_for_backward(self, *_: Tensor) -> None: ...


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """function.apply(*inputs); without gradients its forward alone, which for a few rows takes half the time."""
    if torch.is_grad_enabled():
        return function.apply(*inputs)  # type: ignore[no-untyped-call]
    return function.forward(_NoContext(), *inputs)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., D] @ weight [F, D]' + bias. The weight is a plain one or, without gradients, from `prepack`."""
    if weight.is_mkldnn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def prepack(weight: Tensor) -> Tensor:
    """The weight [F, D] in the order in which oneDNN reads it, where that is of use: on a CPU that has it.

    Few rows times a large matrix is bound by reading the matrix, and read in this order it takes two thirds to half the time.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return weight
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
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
    if x.device.type != "cpu":
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    out: Tensor = apply(_RmsNormalize, x, eps)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up. The two arrive apart: halves of one matrix are strided, and strided bf16 is four times slower."""
    out: Tensor = apply(_SwiGLU, gate, up)
    return out


def turned_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions: x [..., d] in neighbouring pairs, times turn, complex64 broadcast to [..., d / 2], in float32.

    Checkpoints keep the two numbers of a pair d / 2 apart; packing lays them side by side, which leaves every q . k as it
    was and makes the rotation one complex product. x may be strided and of any float dtype.
    """
    pairs = torch.empty(x.shape, dtype=torch.float32, device=x.device).copy_(x)
    turned = torch.view_as_complex(pairs.view(*x.shape[:-1], -1, 2)).mul_(turn)
    return torch.view_as_real(turned).flatten(-2)


def turn_pairs(x: Tensor, turn: Tensor, out: Tensor) -> None:
    """`turned_pairs` into out, which may be strided and of any float dtype."""
    out.copy_(turned_pairs(x, turn))
