"""Muon in batches against torch's own, one matrix at a time.

Run: .venv/bin/python -m pytest tests/parity/test_muon.py   (about 3 s on one core)
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from outdo import kernels
from outdo.training import muon
from outdo.training.muon import Muon

SHAPES = [(16, 16), (16, 16), (40, 16), (16, 40), (40, 16), (7, 3)]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_is_torchs_muon(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(s, generator=generator) for s in SHAPES]
    ours, theirs = ([x.clone().requires_grad_() for x in starts] for _ in range(2))
    optimizers = (Muon(ours, 0.02, weight_decay=weight_decay), torch.optim.Muon(theirs, 0.02, weight_decay=weight_decay))
    for _ in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, start in zip(ours, theirs, starts, strict=True):
        moved = (b - start).norm()
        assert (a - b).norm() < 0.02 * moved, "both compute in bf16, each rounding for itself: about 0.012 from float64"
        assert moved > 0.05


def test_a_matrix_without_gradient_stays() -> None:
    still, moving = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
    moving.grad = torch.eye(4)
    Muon([still, moving], 0.1).step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, still)


def exact(start: Tensor, grads: list[Tensor], lr: float, weight_decay: float) -> Tensor:
    """The same steps in float64."""
    x, mean = start.double(), torch.zeros_like(start, dtype=torch.float64)
    a, b, c = muon._COEFFICIENTS
    for grad in grads:
        mean = mean.lerp(grad.double(), 0.05)
        d = grad.double().lerp(mean, 0.95)
        d = d / d.norm()
        d = d.T if d.shape[0] > d.shape[1] else d
        for _ in range(muon._ITERATIONS):
            gram = d @ d.T
            d = a * d + (b * gram + c * gram @ gram) @ d
        tall = x.shape[0] > x.shape[1]
        scale = (x.shape[0] / x.shape[1]) ** 0.5 if tall else 1.0
        x = (1 - lr * weight_decay) * x - lr * scale * (d.T if tall else d)
    return x


@pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels for this machine")
@pytest.mark.parametrize("shape", [(128, 128), (344, 128), (128, 344), (30, 50), (50, 30), (34, 18), (2, 2), (18, 2)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_compiled_steps_are_as_near_to_float64_as_torchs(shape: tuple[int, int], weight_decay: float,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    start, grads = torch.randn(shape, generator=g), [torch.randn(shape, generator=g) for _ in range(4)]

    def stepped(threads: int) -> Tensor:
        other, p = torch.zeros(6, 4, requires_grad=True), start.clone().requires_grad_()
        optimizer, before = Muon([other, p], 0.05, weight_decay=weight_decay), torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            for grad in grads:
                other.grad, p.grad = torch.ones(6, 4), grad.clone()
                optimizer.step()
        finally:
            torch.set_num_threads(before)
        return p.detach()

    ours = stepped(1)
    assert torch.equal(stepped(3), ours)
    calls: list[str] = []
    monkeypatch.setattr(kernels, "muon_", lambda *_: calls.append("muon"))
    assert torch.equal(stepped(1), start) and len(calls) == 4  # who steps is the kernel
    monkeypatch.setattr(kernels, "library", lambda: None)
    right = exact(start, grads, 0.05, weight_decay)
    moved = (right - start).norm()
    errors = [float((m.double() - right).norm() / moved) for m in (ours, stepped(1))]
    assert errors[0] < 1.1 * errors[1] + 1e-3, errors


def test_flops_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)  # torch does not see what a compiled kernel multiplies
    for shape in set(SHAPES):
        with FlopCounterMode(display=False) as counted:
            muon.orthogonalise(torch.randn(2, *sorted(shape)))
        assert counted.get_total_flops() == 2 * muon.flops(*shape), shape
