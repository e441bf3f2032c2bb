"""Muon: momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

The arithmetic of `torch.optim.Muon` without weight decay's default and one matrix at a time: matrices of one shape go
through the Newton-Schulz iteration together as one batched product, which for matrices of a few hundred rows takes half
the time. Its slow twin is torch's own, in tests/parity.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For two-dimensional parameters. lr: the spectral norm of a step, times sqrt(rows / columns) for tall matrices."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = orthogonalise(torch.stack([self._direction(p, group["momentum"]) for p in params]))
                step = group["lr"] * sqrt(max(1.0, shape[0] / shape[1]))
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-step)

    def _direction(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum; its buffer is a running mean."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


def flops(rows: int, columns: int) -> float:
    """Arithmetic of one step for one matrix: the products of the iteration."""
    short, long = min(rows, columns), max(rows, columns)
    return _ITERATIONS * (4.0 * short * short * long + 2.0 * short**3)


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Nearly the same matrices with all singular values between about 0.7 and 1.2, in bf16. [N, R, C]"""
    a, b, c = _COEFFICIENTS
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = (matrices_NRC.transpose(1, 2) if tall else matrices_NRC).bfloat16().contiguous()
    x.div_(x.norm(dim=(1, 2), keepdim=True).clamp_(min=1e-7))
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
