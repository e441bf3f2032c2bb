"""Losses and gradients equal TRL 1.16's on random tensors, wherever both compute the same.

The numbers were recorded by record_trl.py, which runs TRL itself.
Run: .venv/bin/python -m pytest tests/algorithms/test_trl.py   (about 2 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.plugins import Plugin
from outdo.types import TokenBatch, Total

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl.json").read_text(encoding="utf-8"))
LENGTHS = TRL["lengths"]


def make(name: str, **options: object) -> Algorithm:
    return plugins.make("algorithms", Plugin(name=name, **options), Algorithm)  # type: ignore[type-abstract, arg-type]


def flat(rows: list[list[float]], order: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    return torch.tensor([x for i in order for x in rows[i]])


def batch(new: str, advantages: list[float], order: tuple[int, ...] = (0, 1, 2, 3)) -> TokenBatch:
    """The recorded sequences in this order, one advantage for each."""
    sequence = torch.tensor([n for n, i in enumerate(order) for _ in range(LENGTHS[i])])
    x = flat(TRL[new], order).requires_grad_()
    return TokenBatch(x, flat(TRL["old"], order), torch.tensor(advantages)[sequence], sequence, flat(TRL["ref"], order))


def check(algorithm: Algorithm, b: TokenBatch, want: dict[str, Any], order: tuple[int, ...] = (0, 1, 2, 3),
          loss: bool = True) -> None:
    found, _ = algorithm.loss(b, Total(sum(LENGTHS), 4))
    (g,) = torch.autograd.grad(found, b.logprobs)
    torch.testing.assert_close(g, flat(want["gradient"], order), rtol=1e-5, atol=1e-7)
    if loss:
        assert float(found.detach()) == pytest.approx(want["loss"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("name", "options"), [
    ("grpo_paper", {}), ("dapo", {}), ("dr_grpo", {"length": 10}), ("gspo", {}), ("cispo", {}),
])  # fmt: skip
def test_policy_gradients(name: str, options: dict[str, Any]) -> None:
    check(make(name, **options), batch("new", TRL["advantages"]), TRL[name])


def test_rloo_at_the_sampling_policy() -> None:
    """TRL clips a ratio of whole sequences; at ratio 1 its gradient is that of REINFORCE."""
    check(make("rloo"), batch("old", TRL["advantages"]), TRL["rloo"], loss=False)


@pytest.mark.parametrize(("name", "options"), [("dpo", {"beta": 0.1}), ("ipo", {"beta": 0.1})])
def test_pairs(name: str, options: dict[str, Any]) -> None:
    order = (0, 2, 1, 3)  # chosen, rejected, chosen, rejected
    check(make(name, **options), batch("new", [1.0, -1.0, 1.0, -1.0], order), TRL[name], order)


def test_kto() -> None:
    algorithm = make("kto", beta=0.3, undesirable=0.7)
    algorithm.zero = 0.05  # type: ignore[attr-defined]
    check(algorithm, batch("new", [1.0, -1.0, 1.0, -1.0]), TRL["kto"])


def test_reward_models() -> None:
    want, order = TRL["bradley_terry"], [0, 2, 1, 3]  # chosen, rejected, chosen, rejected
    x = torch.tensor([want["scores"][i] for i in order]).requires_grad_()
    b = TokenBatch(torch.zeros(4), torch.zeros(4), torch.tensor([1.5, -1.0, 1.0, -1.0]), torch.arange(4), values=x)
    loss, _ = make("bradley_terry", centring=0.1).loss(b, Total(4, 4))
    (g,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == pytest.approx(want["loss"], rel=1e-5)
    torch.testing.assert_close(g, torch.tensor([want["gradient"][i] for i in order]), rtol=1e-5, atol=1e-7)
