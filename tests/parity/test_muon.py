"""Muon in batches against torch's own, one matrix at a time.

Run: .venv/bin/python -m pytest tests/parity/test_muon.py   (about 3 s on one core)
"""

from __future__ import annotations

import pytest
import torch
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
        assert (a - b).norm() < 0.01 * moved, "both compute in bf16, in another order"
        assert moved > 0.05


def test_a_matrix_without_gradient_stays() -> None:
    still, moving = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
    moving.grad = torch.eye(4)
    Muon([still, moving], 0.1).step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, still)


@pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels for this machine")
@pytest.mark.parametrize("shape", [(5, 128, 128), (3, 128, 344), (2, 30, 50), (1, 2, 2)])
def test_compiled_iterations_are_as_near_to_float64_as_torchs(shape: tuple[int, int, int],
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    right = x.double() / x.double().norm(dim=(1, 2), keepdim=True)
    a, b, c = muon._COEFFICIENTS
    for _ in range(muon._ITERATIONS):
        gram = right @ right.mT
        right = a * right + (b * gram + c * gram @ gram) @ right
    calls, compiled = [], kernels.orthogonalise_
    monkeypatch.setattr(kernels, "orthogonalise_", lambda *a: (calls.append(1), compiled(*a)))
    ours = muon.orthogonalise(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(muon.orthogonalise(x), ours)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(kernels, "library", lambda: None)
    torchs = muon.orthogonalise(x)
    assert len(calls) == 2
    errors = [float((m.double() - right).norm() / right.norm()) for m in (ours, torchs)]
    assert errors[0] < 1.1 * errors[1] + 1e-3, errors


def test_flops_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)  # torch does not see what a compiled kernel multiplies
    for shape in set(SHAPES):
        with FlopCounterMode(display=False) as counted:
            muon.orthogonalise(torch.randn(2, *sorted(shape)))
        assert counted.get_total_flops() == 2 * muon.flops(*shape), shape
