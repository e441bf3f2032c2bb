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

from outdo import kernels
from outdo.models import ops


def twin_rms_normalize(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def twin_add_normalize(x: Tensor, more: Tensor) -> Tensor:
    return torch.cat([x + more, twin_rms_normalize(x + more)], dim=-1)


def twin_swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


@dataclass(frozen=True)
class Case:
    op: Callable[..., Tensor]
    twin: Callable[..., Tensor]
    inputs: int  # how many tensors of one shape it takes


CASES = {
    "rms_normalize": Case(lambda x: ops.rms_normalize(x, 1e-5), twin_rms_normalize, 1),
    "add_normalize": Case(lambda x, y: torch.cat(ops.add_normalize(x, y, 1e-5), dim=-1), twin_add_normalize, 2),
    "swiglu": Case(lambda x: ops.swiglu_linear(x, torch.eye(x.shape[-1] // 2, dtype=x.dtype)), twin_swiglu, 1),
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


def grad_for(case: Case, inputs: list[Tensor]) -> Tensor:
    """A gradient of the result's shape."""
    return draw(tuple(case.twin(*inputs).shape), 1, seed=9)[0]


def compare(case: Case, inputs: list[Tensor], layout: Callable[[Tensor], Tensor], dtype: torch.dtype,
            tolerance: float) -> None:  # fmt: skip
    """Op in dtype against twin in float64, from the same (rounded) numbers."""
    rounded = [layout(x.to(dtype)) for x in inputs]
    grad = grad_for(case, inputs).to(dtype)
    got = with_gradients(case.op, rounded, layout(grad))
    want = with_gradients(case.twin, [x.double() for x in rounded], grad.double())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype and g.shape == w.shape
        scale = float(w.abs().max()) if w.numel() else 1.0
        torch.testing.assert_close(g.double(), w, rtol=tolerance, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32(case: Case, shape: tuple[int, ...], layout: str) -> None:
    compare(case, draw(shape, case.inputs), LAYOUTS[layout], torch.float32, 3e-6)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bf16(case: Case, shape: tuple[int, ...], layout: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled and kernels.library() is None:
        pytest.skip("no compiled kernels for this machine")
    if not compiled:
        monkeypatch.setattr(kernels, "library", lambda: None)
    compare(case, draw(shape, case.inputs, seed=1), LAYOUTS[layout], torch.bfloat16, 3 * 2.0**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", EMPTY)
def test_empty(case: Case, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """No rows, no tokens, no heads: what an empty micro-batch or a rank without work would bring."""
    inputs = draw(shape, case.inputs)
    y, *gradients = with_gradients(case.op, [x.to(dtype) for x in inputs], grad_for(case, inputs))
    assert y.shape == case.twin(*inputs).shape and y.dtype == dtype
    assert all(g.shape == shape and g.dtype == dtype for g in gradients)


def test_gradients_match_finite_differences(case: Case) -> None:
    """The twins might share a mistake with the derivation; a difference quotient does not."""
    inputs = draw((3, 4, 6), case.inputs, seed=2)
    weight = grad_for(case, inputs)
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
    inputs = draw((3, 4, 6), case.inputs, seed=3)
    grad, inputs = grad_for(case, inputs).float(), [x.float() for x in inputs]
    before = [x.clone() for x in (*inputs, grad)]
    with_gradients(case.op, inputs, grad)
    assert all(torch.equal(x, b) for x, b in zip((*inputs, grad), before, strict=True))


@pytest.mark.parametrize("biased", [True, False])
def test_gradients_of_swiglu_linears_weight(biased: bool) -> None:
    x, weight, bias = (2 * torch.randn(shape, generator=torch.Generator().manual_seed(5)) for shape in ((3, 4, 10), (7, 5), (7,)))
    inputs = [v.requires_grad_() for v in ((x, weight, bias) if biased else (x, weight))]
    grad = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(6))
    got = ops.swiglu_linear(*inputs)
    want = torch.nn.functional.linear(twin_swiglu(x), weight, bias if biased else None)
    torch.testing.assert_close(got, want)
    for g, w in zip(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True):
        torch.testing.assert_close(g, w)
