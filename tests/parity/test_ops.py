"""Every function of models/ops.py against its slow twin in plain torch: values and gradients.

Run: .venv/bin/python -m pytest tests/parity/test_ops.py   (about 4 s on one core)

The twins compute in float64. float32 must agree to its rounding, bf16 to its own (8 bits: 2^-8 of the largest entry).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from outdo.models import ops


def twin_rms_normalize(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def twin_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate / (1 + torch.exp(-gate)) * up


def angles(T: int, half: int) -> Tensor:
    return torch.outer(torch.arange(T, dtype=torch.float64), 0.7 ** torch.arange(half, dtype=torch.float64))


def turn(T: int, half: int) -> Tensor:
    return torch.polar(torch.ones(T, half, dtype=torch.float64), angles(T, half)).to(torch.complex64)


def twin_rotate(x: Tensor) -> Tensor:
    """The rotation matrix written out, on neighbouring pairs."""
    T, d = x.shape[-2:]
    even, odd, a = x[..., 0::2], x[..., 1::2], angles(T, d // 2)
    pairs = (even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos())
    return torch.stack(pairs, -1).flatten(-2)


def twin_softmax(scores: Tensor) -> Tensor:
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Case:
    op: Callable[..., Tensor]
    twin: Callable[..., Tensor]
    inputs: int  # how many tensors of one shape it takes


CASES = {
    "rms_normalize": Case(lambda x: ops.rms_normalize(x, 1e-5), twin_rms_normalize, 1),
    "swiglu": Case(ops.swiglu, twin_swiglu, 2),
    "rotate": Case(lambda x: ops.rotate(x, turn(x.shape[-2], x.shape[-1] // 2)), twin_rotate, 1),
    "softmax": Case(ops.softmax, twin_softmax, 1),
}
SHAPES = [(5, 8), (2, 3, 7, 6), (1, 1, 2), (4, 1, 130)]
EMPTY = [(0, 8), (2, 0, 7, 6), (0, 3, 4, 2)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -2).contiguous().transpose(0, -2),
    "sliced": lambda x: torch.stack([x, x + 9.0], -1).flatten(-2)[..., ::2],
    "heads of a larger matrix": lambda x: torch.cat([x + 5.0, x, x - 5.0], -2)[..., x.shape[-2] : 2 * x.shape[-2], :],
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def draw(shape: tuple[int, ...], n: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2.0 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n)]


def with_gradients(f: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = f(*leaves)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype)))


def compare(case: Case, inputs: list[Tensor], grad: Tensor, layout: Callable[[Tensor], Tensor], dtype: torch.dtype,
            tolerance: float) -> None:  # fmt: skip
    """Op in dtype against twin in float64, from the same (rounded) numbers."""
    rounded = [layout(x.to(dtype)) for x in inputs]
    grad = grad.to(dtype)
    got = with_gradients(case.op, rounded, layout(grad))
    want = with_gradients(case.twin, [x.double() for x in rounded], grad.double())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype and g.shape == w.shape
        scale = float(w.abs().max()) if w.numel() else 1.0
        torch.testing.assert_close(g.double(), w, rtol=tolerance, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32(case: Case, shape: tuple[int, ...], layout: str) -> None:
    *inputs, grad = draw(shape, case.inputs + 1)
    compare(case, inputs, grad, LAYOUTS[layout], torch.float32, 3e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16(case: Case, shape: tuple[int, ...], layout: str) -> None:
    *inputs, grad = draw(shape, case.inputs + 1, seed=1)
    compare(case, inputs, grad, LAYOUTS[layout], torch.bfloat16, 3 * 2.0**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", EMPTY)
def test_empty(case: Case, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """No rows, no tokens, no heads: what an empty micro-batch or a rank without work would bring."""
    *inputs, grad = draw(shape, case.inputs + 1)
    values = with_gradients(case.op, [x.to(dtype) for x in inputs], grad)
    assert all(v.shape == shape and v.dtype == dtype for v in values)


def test_gradients_match_finite_differences(case: Case) -> None:
    """The twins might share a mistake with the derivation; a difference quotient does not."""
    *inputs, weight = draw((3, 4, 6), case.inputs + 1, seed=2)
    singles = [x.float() for x in inputs]
    _, *gradients = with_gradients(case.op, singles, weight)
    step = 1e-2
    for i, gradient in enumerate(gradients):
        for at in [(0, 0, 0), (1, 2, 3), (2, 3, 5)]:
            ends = []
            for sign in (1, -1):
                moved = [x.clone() for x in singles]
                moved[i][at] += sign * step
                ends.append(float((case.op(*moved).double() * weight).sum()))
            assert float(gradient[at]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-2, abs=2e-3)


def test_inputs_stay_as_they_were(case: Case) -> None:
    """In-place arithmetic inside must never reach the caller's tensors or the incoming gradient."""
    *inputs, grad = [x.float() for x in draw((3, 4, 6), case.inputs + 1, seed=3)]
    before = [x.clone() for x in (*inputs, grad)]
    with_gradients(case.op, inputs, grad)
    assert all(torch.equal(x, b) for x, b in zip((*inputs, grad), before, strict=True))


def test_softmax_of_masked_scores() -> None:
    """-inf scores weigh exactly nothing and pass no gradient; a single visible key weighs exactly one."""
    scores = torch.tensor([[0.3, float("-inf"), 1.2], [2.0, float("-inf"), float("-inf")]], requires_grad=True)
    weights = ops.softmax(scores)
    assert weights[0, 1] == 0 and weights[1].tolist() == [1.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(weights, scores, torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]]))
    assert gradient.isfinite().all() and gradient[0, 1] == 0 and gradient[1].abs().max() == 0


def test_rms_normalize_survives_extremes() -> None:
    """Statistics in float32: squares of large bf16 numbers do not overflow, a zero row stays zero."""
    x = torch.tensor([[3e18, -3e18], [0.0, 0.0]], dtype=torch.bfloat16)
    y = ops.rms_normalize(x, 1e-5)
    torch.testing.assert_close(y.float(), torch.tensor([[1.0, -1.0], [0.0, 0.0]]), rtol=1e-2, atol=0)


def test_rotate_broadcasts_over_rows_at_different_positions() -> None:
    """turn [B, 1, T, d/2]: what decoding with ragged rows uses."""
    table = turn(9, 3)
    at = torch.tensor([[0, 1], [5, 6], [7, 8]])
    x = draw((3, 4, 2, 6), 1)[0].float()
    got = ops.rotate(x, table[at].unsqueeze(1))
    assert got.is_contiguous()
    for row in range(3):
        torch.testing.assert_close(got[row], ops.rotate(x[row], table[at[row]]))


def test_every_op_has_a_twin() -> None:
    public = {n for n, f in vars(ops).items() if callable(f) and not n.startswith("_") and f.__module__ == ops.__name__}
    assert public == set(CASES)
