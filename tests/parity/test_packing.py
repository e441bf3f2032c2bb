"""Compute weights by a compiled kernel against PyTorch: the same bits forth, and back within the order of a sum.

Run: .venv/bin/python -m pytest tests/parity/test_packing.py   (about 3 s on one core; skipped where nothing can be compiled)
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outdo import kernels
from outdo.models import packing
from outdo.models.packing import Part, pair_up, stack

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels for this machine")
BF16 = torch.bfloat16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, inputs, draw(*out.shape, seed=9).to(out.dtype))


@pytest.mark.parametrize(("shapes", "pairs"), [(((384, 128), (128, 128), (64, 128)), 32), (((130, 37),), 0),
                                               (((96, 1), (32, 1)), 16), (((2000, 64),), 0)])
@pytest.mark.parametrize("scaled", [False, True])
def test_packed_weights_and_their_gradients_are_pytorchs(shapes: tuple[tuple[int, int], ...], pairs: int, scaled: bool) -> None:
    weights = [draw(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
    norm = draw(shapes[0][1], seed=7).requires_grad_() if scaled else None
    parts = tuple(Part(w, pairs if i < 2 else 0, 0.17 if i == 0 else 1.0) for i, w in enumerate(weights))
    ours, slow = stack(parts, norm, BF16), packing._by_torch(parts, norm, BF16)
    assert "Stack" in type(ours.grad_fn).__name__  # the kernel, not its twin
    assert torch.equal(ours, slow)
    got, expected = gradients(ours, weights), gradients(slow, weights)
    assert all(map(torch.equal, got, expected))
    if norm is not None:  # in float64, which knows the order of no sum
        grad = draw(*ours.shape, seed=9).to(BF16).double()
        split = grad.split([len(w) for w in weights])
        exact = sum((g * packing._by_torch((p._replace(weight=p.weight.double()),), None, torch.float64)).sum(0)
                    for g, p in zip(split, parts, strict=True))
        assert isinstance(exact, Tensor)
        size = sum((g.abs() * packing._by_torch((p._replace(weight=p.weight.double().abs()),), None, torch.float64)).sum(0)
                   for g, p in zip(split, parts, strict=True))
        assert ((gradients(stack(parts, norm, BF16), [norm])[0] - exact).abs() <= 1e-5 * size).all()


def test_what_is_not_float32_or_not_contiguous_goes_by_pytorch() -> None:
    for weight in (draw(8, 4).double(), draw(4, 8).T):
        out = stack((Part(weight.requires_grad_()),), None, BF16)
        assert "Stack" not in type(out.grad_fn).__name__
        assert torch.equal(out, weight.to(BF16))


def test_frozen_parts_get_no_gradient() -> None:
    a, b, norm = draw(32, 16), draw(32, 16, seed=1).requires_grad_(), draw(16, seed=2)
    stack((Part(a), Part(b)), norm, BF16).sum().backward()
    assert a.grad is None and norm.grad is None
    assert b.grad is not None and torch.equal(b.grad, norm.expand(32, 16))


def test_neighbours_were_half_a_head_apart() -> None:
    assert pair_up(torch.arange(8.0)[:, None], 4).squeeze(1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
