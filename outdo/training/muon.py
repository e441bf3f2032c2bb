"""Muon: momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

The arithmetic of `torch.optim.Muon` without weight decay's default and one matrix at a time: where there are compiled kernels
they take each matrix from gradient to step in one go; elsewhere matrices of one shape go through the Newton-Schulz iteration
together, as one batched product. The slow twin of both is torch's own, in tests/parity.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor

from outdo import kernels

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
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            compiled = [p for p in params if _compiled(p)]
            if compiled:
                kernels.muon_(compiled, *self._means(compiled), group["lr"], group["momentum"], group["weight_decay"],
                              _COEFFICIENTS, _ITERATIONS)
            self._step([p for p in params if not _compiled(p)], group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """By PyTorch, matrices of one shape or its transpose together."""
        by_sides: dict[tuple[int, int], list[Tensor]] = {}
        for p in params:
            by_sides.setdefault((min(p.shape), max(p.shape)), []).append(p)
        for alike in by_sides.values():
            grads, means = self._means(alike)
            torch._foreach_lerp_(means, grads, 1 - group["momentum"])
            directions = torch._foreach_lerp(grads, means, group["momentum"])  # Nesterov's
            wide = [d.t() if d.shape[0] > d.shape[1] else d for d in directions]
            if group["weight_decay"]:
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            for p, update in zip(alike, orthogonalise(torch.stack(wide)), strict=True):
                tall = p.shape[0] > p.shape[1]
                p.add_(update.t() if tall else update, alpha=-group["lr"] * (sqrt(p.shape[0] / p.shape[1]) if tall else 1.0))

    def _means(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients, and the running means of those before."""
        return [cast(Tensor, p.grad) for p in params], [self.state[p]["momentum_buffer"] for p in params]


def _compiled(p: Tensor) -> bool:
    """Whether `kernels.muon_` takes it."""
    plain = p.dtype == torch.float32 and p.is_contiguous() and cast(Tensor, p.grad).is_contiguous()
    return plain and not (p.shape[0] | p.shape[1]) % 2 and kernels.usable(p.device, torch.bfloat16)


def flops(rows: int, columns: int) -> float:
    """Arithmetic of one step for one matrix: the products of the iteration."""
    short, long = min(rows, columns), max(rows, columns)
    return _ITERATIONS * (4.0 * short * short * long + 2.0 * short**3)


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Nearly the same matrices with all singular values between about 0.7 and 1.2, in bf16. [N, R, C], R <= C"""
    a, b, c = _COEFFICIENTS
    x = matrices_NRC.bfloat16()
    x.div_(x.norm(dim=(1, 2), keepdim=True).clamp_(min=1e-7))
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
