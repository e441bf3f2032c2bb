"""AdamW and Muon against their formulas, learning-rate schedules.

Run: .venv/bin/python -m pytest tests/training/test_optimizer.py   (about 3 s on one core)
"""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import config, decoder

from outdo.models.decoder import Decoder
from outdo.recipe import OptimizerConfig
from outdo.training.optimizer import Optimizer, lr_scale


def set_gradients(model: Decoder, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def run(options: dict[str, Any], steps: int = 5, scale: float = 1.0) -> Decoder:
    model = decoder()
    optimizer = Optimizer(model, OptimizerConfig(**options))
    for step in range(steps):
        set_gradients(model, step)
        optimizer.step(scale)
    return model


def adamw(p: Tensor, gradients: list[Tensor], c: OptimizerConfig, scale: float) -> Tensor:
    """Loshchilov and Hutter (1711.05101), in float64."""
    p, m, v = p.double(), torch.zeros_like(p, dtype=torch.float64), torch.zeros_like(p, dtype=torch.float64)
    b1, b2 = c.betas
    for t, g in enumerate((g.double() for g in gradients), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + c.eps)
        p = p - c.lr * scale * (c.weight_decay * p + step)
    return p


@pytest.mark.parametrize("options", [{}, {"lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.3}])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_fused_adamw_is_adamw(options: dict[str, Any], scale: float) -> None:
    got, start, twin = run(options, scale=scale), decoder(), decoder()
    collected: dict[str, list[Tensor]] = {}
    for step in range(5):
        set_gradients(twin, step)
        for name, p in twin.named_parameters():
            assert p.grad is not None
            collected.setdefault(name, []).append(p.grad.clone())
    for name, p in start.named_parameters():
        want = adamw(p.detach(), collected[name], OptimizerConfig(**options), scale)
        now = dict(got.named_parameters())[name].detach().double()
        assert (now - want).abs().max() < 1e-6 < (now - p.detach()).abs().max()


def test_fused_equals_torchs_plain_adamw() -> None:
    got, plain = run({"weight_decay": 0.1}), decoder()
    c = OptimizerConfig(weight_decay=0.1)
    reference = torch.optim.AdamW(plain.parameters(), lr=c.lr, betas=c.betas, eps=c.eps, weight_decay=0.1, foreach=False)
    for step in range(5):
        set_gradients(plain, step)
        reference.step()
    for a, b in zip(got.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_muon_moves_the_layers_matrices_and_adamw_the_rest() -> None:
    adam, muon, start = run({}), run({"kind": "muon", "muon_lr": 0.05}), decoder()
    inside = 0
    for (name, a), b, s in zip(adam.named_parameters(), muon.parameters(), start.parameters(), strict=True):
        matrix = ".layers." in name and a.dim() == 2
        assert torch.equal(a, b) != matrix, name
        assert not torch.equal(b, s), name
        inside += matrix
    assert inside == 7 * 2


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_muon_orthogonalises(size: float) -> None:
    """One step moves a matrix by nearly the same length in every direction, whatever the gradient's scale.

    The gradient's own singular values span a factor of 780; Newton-Schulz leaves all but one within 0.6 to 1.2.
    """
    model = decoder(config())
    optimizer = Optimizer(model, OptimizerConfig(kind="muon", muon_lr=0.1))
    before = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    set_gradients(model, 0)
    for p in model.parameters():
        assert p.grad is not None
        p.grad *= size
    optimizer.step(0.5)
    update = torch.linalg.svdvals(model.model.layers[0].self_attn.q_proj.weight.detach() - before) / 0.05
    assert float(update[-2]) > 0.6 and float(update[0]) < 1.2


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_learning_rates_are_scaled_not_stored(kind: str) -> None:
    """A step at scale 0 changes nothing, and the next one is at full rate again."""
    model = decoder()
    optimizer = Optimizer(model, OptimizerConfig(kind=kind, lr=1e-3, muon_lr=0.02))  # type: ignore[arg-type]
    before = [p.detach().clone() for p in model.parameters()]
    for scale, moves in ((0.0, False), (1.0, True)):
        set_gradients(model, 0)
        optimizer.step(scale)
        assert all(torch.equal(p, b) != moves for p, b in zip(model.parameters(), before, strict=True))
    rates = [group["lr"] for part in optimizer.state_dict() for group in part["param_groups"]]
    assert rates == ([1e-3] if kind == "adamw" else [1e-3, 0.02])


def test_zero_grad() -> None:
    for kind in ("adamw", "muon"):
        model = decoder()
        optimizer = Optimizer(model, OptimizerConfig(kind=kind))  # type: ignore[arg-type]
        set_gradients(model, 0)
        optimizer.zero_grad()
        assert all(p.grad is None for p in model.parameters())


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "at"),
    [
        ("constant", lambda x: 1.0),
        ("linear", lambda x: 1 - 0.9 * x),
        ("cosine", lambda x: 0.1 + 0.9 * (1 + cos(pi * x)) / 2),
    ],
)
def test_schedules(decay: str, at: Any) -> None:
    c = OptimizerConfig(decay=decay, final_lr=0.1)  # type: ignore[arg-type]
    for x in (0.0, 0.25, 0.5, 0.99, 1.0):
        assert lr_scale(c, x, step=100) == pytest.approx(at(x))
    assert lr_scale(c, 1.7, 100) == lr_scale(c, 1.0, 100) and lr_scale(c, -0.1, 100) == 1.0, "held at both ends"


def test_warmup_multiplies() -> None:
    c = OptimizerConfig(decay="linear", warmup_steps=4)
    assert [lr_scale(c, 0.0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert lr_scale(c, 0.5, 1) == pytest.approx(0.25) and lr_scale(c, 1.0, 9) == 0.0
