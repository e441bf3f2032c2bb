"""What a layer does behind its attention, by one compiled kernel and operation by operation, both against float64.

Run: .venv/bin/python -m pytest tests/parity/test_block.py   (about 4 s on one core; skipped where nothing can be compiled)
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from outdo import kernels
from outdo.models import block
from outdo.models.ops import Matrix, add_normalize, linear, prepack, swiglu_linear

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels for this machine")
EPS = 1e-5
SIZES = [(700, 128, 128, 344), (65, 64, 96, 50), (64, 36, 20, 18), (100, 16, 8, 6), (130, 576, 576, 1536)]  # rows, D, A, F


def inputs(rows: int, D: int, A: int, width: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(rows)
    shapes = [((rows, D), 1.0), ((rows, A), 1.0), ((D, A), A**-0.5), ((2 * width, D), D**-0.5), ((D, width), width**-0.5)]
    return [(torch.randn(s, generator=g) * scale).to(torch.bfloat16).requires_grad_() for s, scale in shapes]


def fused(x: Tensor, mixed: Tensor, o: Matrix, gate_up: Matrix, down: Matrix) -> tuple[Tensor, Tensor]:
    return block.after_attention(x, mixed, o, gate_up, down, EPS)


def slow(x: Tensor, mixed: Tensor, o: Matrix, gate_up: Matrix, down: Matrix) -> tuple[Tensor, Tensor]:
    x, normed = add_normalize(x, linear(mixed, o), EPS)
    return add_normalize(x, swiglu_linear(linear(normed, gate_up), down), EPS)


def exact(x: Tensor, mixed: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    def normalized(t: Tensor) -> Tensor:
        return t * torch.rsqrt(t.square().mean(-1, keepdim=True) + EPS)

    first = x + mixed @ o.T
    gate, up = (normalized(first) @ gate_up.T).chunk(2, -1)
    total = first + (F.silu(gate) * up) @ down.T
    return total, normalized(total)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("total_used", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_results_and_gradients_are_as_close_to_float64_as_operation_by_operation(sizes: tuple[int, ...], total_used: bool,
                                                                                  threads: int) -> None:
    before, args = torch.get_num_threads(), inputs(*sizes)
    g = torch.Generator().manual_seed(1)
    grads = [torch.randn(sizes[0], sizes[1], generator=g).to(torch.bfloat16) for _ in range(2)]
    found = []
    torch.set_num_threads(threads)
    try:
        doubles = [a.detach().double().requires_grad_() for a in args]
        for f, xs in ((fused, args), (slow, args), (exact, doubles)):
            total, y = f(*xs)
            loss = (y * grads[1].to(y.dtype)).sum()
            if total_used:
                loss = loss + (total * grads[0].to(y.dtype)).sum()
            found.append([total.detach(), y.detach(), *torch.autograd.grad(loss, xs)])
    finally:
        torch.set_num_threads(before)
    assert block.fuses(args[0], args[1], args[4])
    for ours, operations, right in zip(*found, strict=True):
        assert error(ours, right) < 1.1 * error(operations, right) + 1e-4


def test_threads_do_not_change_a_bit() -> None:
    args, found = inputs(*SIZES[0]), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            total, y = fused(*args)
            (total + y).sum().backward()
            found.append([total, y, *(a.grad for a in args[:2])])  # those of weights are products of torch's
            for a in args:
                a.grad = None
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True) if a is not None and b is not None)


@pytest.mark.parametrize("sizes", SIZES)
def test_without_gradients_and_with_packed_weights_it_is_the_same(sizes: tuple[int, ...]) -> None:
    x, mixed, *weights = inputs(*sizes)
    total, y = fused(x, mixed, *weights)
    with torch.no_grad():
        packed = fused(x, mixed, *map(prepack, weights))
        operations = slow(x, mixed, *map(prepack, weights))
        three_d = fused(x[None], mixed[None], *weights)
    for got in (packed, operations):
        assert torch.equal(got[0], total) and torch.equal(got[1], y)
    assert torch.equal(three_d[0][0], total) and torch.equal(three_d[1][0], y)


def test_frozen_weights_get_no_gradient() -> None:
    x, mixed, o, gate_up, down = inputs(*SIZES[1])
    gate_up.requires_grad_(False)
    fused(x, mixed, o, gate_up, down)[1].sum().backward()
    assert gate_up.grad is None and o.grad is not None and down.grad is not None


def test_few_rows_odd_sizes_and_other_types_go_operation_by_operation() -> None:
    x, mixed, _, _, down = inputs(*SIZES[0])
    assert not block.fuses(x[:63], mixed[:63], down)
    assert not block.fuses(x, mixed, down[:, :-1].contiguous())
    assert not block.fuses(x.float(), mixed.float(), down.float())
    before = torch.get_num_threads()
    try:
        for threads, shared in ((1, True), (16, False)):
            torch.set_num_threads(threads)
            assert block.fuses(x, mixed, prepack(down.detach())) is shared
            assert block.fuses(x, mixed, down)
    finally:
        torch.set_num_threads(before)
