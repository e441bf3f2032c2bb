"""What single algorithms do beside the contract of all: distillation, KL penalties, entropy, smoothing, margins. Worked by hand.

Run: .venv/bin/python -m pytest tests/algorithms/test_by_hand.py   (about 2 s on one core)
"""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.plugins import Plugin
from outdo.types import TokenBatch, Total


def make(name: str, **options: object) -> Algorithm:
    return plugins.make("algorithms", Plugin(name=name, **options), Algorithm)  # type: ignore[type-abstract, arg-type]


# --- distillation ---------------------------------------------------------------------------------------------------

_P, _Q = (0.75, 0.25), (0.5, 0.5)  # the policy and the teacher, over two tokens
_REVERSE = 0.75 * log(1.5) + 0.25 * log(0.5)
_FORWARD = 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25)
_JSD = 0.5 * (0.5 * log(0.5 / 0.625) + 0.5 * log(0.5 / 0.375) + 0.75 * log(0.75 / 0.625) + 0.25 * log(0.25 / 0.375))


@pytest.mark.parametrize(("options", "want"), [
    ({}, _REVERSE), ({"divergence": "forward"}, _FORWARD), ({"divergence": "jsd"}, _JSD), ({"top_k": 1}, _REVERSE),
    ({"top_k": 5}, _REVERSE),
])  # fmt: skip
def test_distillation_by_hand(options: dict[str, object], want: float) -> None:
    """Two tokens of one sequence, one of them with weight 0: half the divergence of the other."""
    logits = torch.tensor([_P, (0.1, 0.9)]).log().requires_grad_()
    taught = torch.tensor([_Q, (0.7, 0.3)]).log()
    b = TokenBatch(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int64),
                   vocabulary=lambda f: f(logits.log_softmax(-1), taught))
    loss, metrics = make("distillation", **options).loss(b, Total(2, 1))
    assert float(loss.detach()) == pytest.approx(want / 2, abs=1e-6)
    assert float(metrics["divergence"]) == pytest.approx(want, abs=1e-6)
    (g,) = torch.autograd.grad(loss, logits)
    assert (g[1] == 0).all() and (g[0] != 0).all()
    if not options:  # d KL / d logit = p (log p - log q - KL)
        wanted = [p * (log(p / q) - _REVERSE) / 2 for p, q in zip(_P, _Q, strict=True)]
        torch.testing.assert_close(g[0], torch.tensor(wanted))


def test_top_k_is_a_bound_from_below() -> None:
    g = torch.Generator().manual_seed(0)
    own, taught = (torch.randn(6, 30, generator=g).log_softmax(-1) for _ in range(2))
    found = []
    for k in (1, 5, 29, 30):
        b = TokenBatch(torch.zeros(6), torch.zeros(6), torch.ones(6), torch.zeros(6, dtype=torch.int64),
                       vocabulary=lambda f: f(own, taught))
        found.append(float(make("distillation", top_k=k).loss(b, Total(6, 1))[0]))
    assert found == sorted(found) and found[-2] == pytest.approx(found[-1], abs=1e-5) and found[0] >= 0


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_divergence_estimates_by_hand(estimator: str) -> None:
    """log pi - log ref = ln 2 on one token, weight 0.5: ln 2, (ln 2)^2 / 2 or 1/2 - 1 + ln 2."""
    want = {"k1": log(2), "k2": 0.5 * log(2) ** 2, "k3": 0.5 - 1 + log(2)}[estimator]
    new = torch.tensor([log(0.5)], requires_grad=True)
    b = TokenBatch(new, new.detach(), torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.tensor([log(0.25)]))
    loss, metrics = make("grpo", kl=0.5, kl_estimator=estimator).loss(b, Total(1, 1))
    assert float(loss.detach()) == pytest.approx(0.5 * want) and float(metrics["kl_reference"]) == pytest.approx(log(2))


def test_the_kl_coefficient_adapts_and_is_kept() -> None:
    """Above the target it rises by at most 2 % a step, below it falls."""
    a = make("grpo", kl=0.1, kl_target=0.5)
    a.observe({"kl_reference": 50.0})
    assert a.state()["kl"] == pytest.approx(0.102)
    a.observe({"kl_reference": 0.0})
    assert a.state()["kl"] == pytest.approx(0.102 * 0.98)
    b = make("grpo", kl=0.1, kl_target=0.5)
    b.load_state(a.state())
    assert b.state() == a.state()
    still = make("grpo", kl=0.1)
    still.observe({"kl_reference": 50.0})
    assert still.state() == {"kl": 0.1}


def test_kl_in_the_reward_is_a_penalty_of_each_token() -> None:
    a = make("rloo", kl=0.5)
    assert a.penalty(np.float32([-1, -2]), np.float32([-2, -2])).tolist() == [0.5, 0.0]  # type: ignore[union-attr]
    assert make("grpo", kl=0.5).penalty(np.zeros(2, np.float32), np.zeros(2, np.float32)) is None


def test_an_entropy_bonus_by_hand() -> None:
    """Entropy of (0.75, 0.25), weight 0.1."""
    logits = torch.tensor([_P]).log()
    b = TokenBatch(torch.zeros(1, requires_grad=True), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64),
                   vocabulary=lambda f: f(logits, None))
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    loss, metrics = make("grpo", entropy=0.1).loss(b, Total(1, 1))
    assert float(loss.detach()) == pytest.approx(-0.1 * entropy) and float(metrics["entropy_bonus"]) == pytest.approx(entropy)


def test_label_smoothing_by_hand() -> None:
    """Target 0.9 on the token of probability 0.75 and 0.05 on each of two tokens more."""
    logits = torch.tensor([_P]).log()
    b = TokenBatch(torch.tensor([log(0.75)]), torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.int64),
                   vocabulary=lambda f: f(logits, None))
    want = -0.9 * log(0.75) - 0.1 * (log(0.75) + log(0.25)) / 2
    assert float(make("sft", label_smoothing=0.1).loss(b, Total(1, 1))[0]) == pytest.approx(want)


def test_a_margin_asks_for_more() -> None:
    """Scores 2 and 1, margin 0.5: -log sigmoid(0.5); centring adds 0.1 * 9."""
    values = torch.tensor([2.0, 1.0], requires_grad=True)
    b = TokenBatch(torch.zeros(2), torch.zeros(2), torch.tensor([1.5, -1.0]), torch.tensor([0, 1]), values=values)
    loss, metrics = make("bradley_terry").loss(b, Total(2, 2))
    assert float(loss.detach()) == pytest.approx(log(1 + exp(-0.5))) and float(metrics["pair_accuracy"]) == 2.0
    centred, _ = make("bradley_terry", centring=0.1).loss(b, Total(2, 2))
    assert float(centred.detach()) == pytest.approx(log(1 + exp(-0.5)) + 0.9)
