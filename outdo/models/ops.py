"""Element-wise pieces of the decoder with hand-written backward passes.

Eager PyTorch walks memory once per operation; at widths of a few hundred that walking took half of a training step on a
CPU. Each function here saves what its backward needs and no more, and computes by a compiled kernel where there is one
(`outdo.kernels`). Their slow twins are in tests/parity. Where torch has a fused kernel for GPUs, tensors that lie on one take it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outdo import kernels

_FEW_SUMS = 1 << 17  # numbers of a weight whose gradient fits into a core's cache in float32


class _NoContext:
    """What `forward` writes to where nobody will ask for a gradient."""

    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *_: Tensor) -> None: ...
    def set_materialize_grads(self, _: bool) -> None: ...


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """function.apply(*inputs); without gradients its forward alone, which for a few rows takes half the time."""
    if torch.is_grad_enabled():
        return function.apply(*inputs)  # type: ignore[no-untyped-call]
    return function.forward(_NoContext(), *inputs)


Matrix = Tensor | kernels.Panels  # [F, D]; the latter from `prepack`


def linear(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """x [..., D] @ weight [F, D]' + bias. The weight is a plain one or, without gradients, from `prepack`."""
    if isinstance(weight, kernels.Panels):
        return kernels.multiply(x.contiguous(), weight, bias)
    if weight.is_mkldnn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    if bias is None and torch.is_grad_enabled() and _sums_fit(*weight.shape) and kernels.usable(x.device, x.dtype):
        out = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return out
    return F.linear(x, weight, bias)


def _sums_fit(rows: int, columns: int) -> bool:
    return rows * columns <= _FEW_SUMS


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad [..., F], x [..., D] -> their outer products summed over all rows, [F, D]."""
    if kernels.usable(x.device, x.dtype) and _sums_fit(grad.shape[-1], x.shape[-1]):
        return kernels.outer(grad.contiguous(), x.contiguous())
    return grad.flatten(0, -2).t() @ x.flatten(0, -2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        return grad @ weight if wants_x else None, weight_gradient(grad, x) if wants_weight else None


def prepack(weight: Tensor) -> Matrix:
    """The weight [F, D] in the order in which compiled kernels or else oneDNN read it, where that is of use: on a CPU.

    Few rows times a large matrix is bound by reading the matrix, and in order it takes two thirds to a third of the time.
    """
    if kernels.usable(weight.device, weight.dtype) and weight.shape[1] % 2 == 0:
        return kernels.pack(weight.contiguous())
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return weight
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return weight
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return out


def _normalize(x: Tensor, more: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """total = x + more, total / root and 1 / root of mean(total^2) + eps, the last [...] or [..., 1]."""
    if kernels.usable(x.device, x.dtype):
        return kernels.normalize(x.contiguous(), None if more is None else more.contiguous(), eps)
    total = x if more is None else x + more
    square = torch.linalg.vector_norm(total, dim=-1, keepdim=True, dtype=torch.float32).square_()
    inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
    return total, total * inverse, inverse


def _normalize_backward(grad: Tensor, grad_total: Tensor | None, y: Tensor, inverse: Tensor) -> Tensor:
    if kernels.usable(y.device, y.dtype):
        return kernels.normalize_backward(grad.contiguous(), None if grad_total is None else grad_total.contiguous(), y, inverse)
    along = (grad * y).mean(-1, keepdim=True, dtype=torch.float32).to(y.dtype)
    out = torch.addcmul(grad, y, along, value=-1).mul_(inverse)
    return out if grad_total is None else out.add_(grad_total)


class _RmsNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        _, y, inverse = _normalize(x, None, eps)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _normalize_backward(grad, None, *ctx.saved_tensors), None


def rms_normalize(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, without a weight; the statistics in float32."""
    if x.device.type != "cpu":
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    out: Tensor = apply(_RmsNormalize, x, eps)
    return out


class _AddNormalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, more: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total, y, inverse = _normalize(x, more, eps)
        ctx.set_materialize_grads(False)  # of the last total, which nobody uses
        ctx.save_for_backward(y, inverse)
        return total, y

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        out = grad_total if grad is None else _normalize_backward(grad, grad_total, *ctx.saved_tensors)
        return out, out, None


def add_normalize(x: Tensor, more: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """total = x + more, and `rms_normalize` of it."""
    if x.device.type != "cpu":
        total = x + more
        return total, F.rms_norm(total, x.shape[-1:], eps=eps)
    out: tuple[Tensor, Tensor] = apply(_AddNormalize, x, more, eps)
    return out


def _swiglu(x: Tensor) -> Tensor:
    if kernels.usable(x.device, x.dtype):
        return kernels.swiglu(x.contiguous())
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate.contiguous()).mul_(up)


def _swiglu_backward(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`_swiglu` once more, and the gradient of x."""
    if kernels.usable(x.device, x.dtype):
        return kernels.swiglu_backward(x.contiguous(), grad.contiguous())
    gate, up = (half.contiguous() for half in x.chunk(2, dim=-1))  # strided bf16 is four times slower
    silu = F.silu(gate)
    return silu * up, torch.cat([torch.ops.aten.silu_backward(grad * up, gate), silu * grad], dim=-1)


class _SwiGLULinear(torch.autograd.Function):
    """Keeps x alone: what lies between the two is half as large again and quickly computed anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(_swiglu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        _, wants_weight, wants_bias = ctx.needs_input_grad
        y, grad_x = _swiglu_backward(x, grad @ weight)
        return grad_x, weight_gradient(grad, y) if wants_weight else None, grad.flatten(0, -2).sum(0) if wants_bias else None


def swiglu_linear(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """x [..., 2 F]: silu of its first half times its second, then `linear` with weight [D, F]."""
    if x.device.type != "cpu":
        gate, up = x.chunk(2, dim=-1)
        return linear(F.silu(gate) * up, weight, bias)
    out: Tensor = apply(_SwiGLULinear, x, weight, bias)
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
