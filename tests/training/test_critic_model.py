"""A critic with weights of its own: what it says, how it learns beside the policy, what it costs, and that it is saved.

Run: .venv/bin/python -m pytest tests/training/test_critic_model.py   (about 8 s on one core)
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import SMALL, config, decoder, samples, tokenizer

from outdo.algorithms.base import Algorithm, make_algorithm
from outdo.algorithms.grpo import Grpo
from outdo.errors import UserError
from outdo.models import adapt, hf
from outdo.models.flops import causal_attended, forward_flops
from outdo.plugins import Plugin
from outdo.recipe import OptimizerConfig
from outdo.stages.common.loop import Loop
from outdo.training import checkpoint
from outdo.training.step import Trainer
from outdo.types import Sample

LENGTHS = [9, 4, 17, 30]


def trainer(seed: int = 0, model: Any = None, scale: float = 1.0, micro_tokens: int = 10**6, **optimizer: Any) -> Trainer:
    """As a stage makes it."""
    settings = OptimizerConfig(micro_tokens=micro_tokens, **{"lr": 1e-2, "max_grad_norm": 1e9, **optimizer})
    algorithm = make_algorithm(Plugin(name="ppo", critic="model", critic_lr_scale=scale))
    loop: Any = SimpleNamespace(config=SimpleNamespace(optimizer=settings), algorithm=algorithm,
                                run=SimpleNamespace(dtype=torch.float32))  # fmt: skip
    return Loop._trainer(loop, model or decoder(SMALL, seed), None)


def batch(seed: int = 0) -> list[Sample]:
    """Every token should be valued 0.1 times its place in the sequence."""
    return [replace(s, returns=np.float32(0.1 * np.arange(len(s.mask)) * s.mask)) for s in samples(LENGTHS, seed=seed)]


def hidden(t: Trainer, s: Sample) -> torch.Tensor:
    """[n, D] before each token that trains, one sequence at a time."""
    model: Any = t.critic_model
    whole = model.hidden(model.pack(torch.float32), torch.from_numpy(s.token_ids)[None])[0]
    return whole[np.flatnonzero(s.mask) - 1]  # type: ignore[no-any-return]


def test_gradients_by_hand() -> None:
    """Values begin at 0: L = 0.5 mean R^2, dL/db = -mean R, dL/dw = -mean R h; the policy's gradient is that without a critic."""
    t, plain = trainer(), trainer()
    plain.critic = plain.critic_model = None
    plain.critic_parameters = []
    expected = torch.cat([torch.from_numpy(s.returns[s.mask]) for s in batch()])  # type: ignore[index]
    states = torch.cat([hidden(t, s) for s in batch()]).detach()
    metrics, without = t.step(batch(), Grpo().loss)[0], plain.step(batch(), Grpo().loss)[0]
    assert metrics["value_error"] == pytest.approx(float(expected.square().mean()))
    assert metrics["loss"] == pytest.approx(without["loss"] + 0.5 * metrics["value_error"])
    assert t.critic is not None and t.critic.weight.grad is not None and t.critic.bias.grad is not None
    assert float(t.critic.bias.grad) == pytest.approx(-float(expected.mean()))
    torch.testing.assert_close(t.critic.weight.grad, -(expected[:, None] * states).mean(0), rtol=1e-4, atol=1e-6)
    whole = torch.cat([t.critic.weight.grad, t.critic.bias.grad[None]])
    assert metrics["critic_grad_norm"] == pytest.approx(float(whole.norm())), "a head of zeros passes nothing on"
    for a, b in zip(t.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


def test_its_weights_learn_and_the_policys_do_not_care() -> None:
    t, start = trainer(), decoder()
    errors = [t.step([replace(s, advantages=0 * s.advantages) for s in batch()], Grpo().loss)[0]["value_error"]
              for _ in range(40)]  # fmt: skip
    assert errors[-1] < 0.05 * errors[0], "more than a linear reading of the start could do"
    assert t.critic_model is not None
    names = [name for name, p in start.named_parameters() if torch.equal(p, t.critic_model.get_parameter(name))]
    assert names == ["model.norm.weight"], "which is part of the head of the vocabulary"
    assert all(torch.equal(a, b) for a, b in zip(t.model.parameters(), start.parameters(), strict=True))


def test_values_are_those_of_whole_sequences() -> None:
    t = trainer()
    for _ in range(5):
        t.step(batch(), Grpo().loss)
    assert t.critic is not None and t.head is None
    found, usage = t.values([(s.token_ids, s.mask) for s in batch()])
    for s, values in zip(batch(), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(values), t.critic(hidden(t, s)).detach(), rtol=1e-4, atol=1e-5)
    attended, heads = sum(map(causal_attended, LENGTHS)), sum(int(s.mask.sum()) for s in batch())
    want = forward_flops(config(), sum(LENGTHS), attended, heads, outputs=1)
    assert usage.flops == usage.reference_flops == want < forward_flops(config(), sum(LENGTHS), attended, heads)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_micro_batches_change_nothing_and_the_update_is_booked(kind: str) -> None:
    whole, cut = trainer(kind=kind), trainer(kind=kind, micro_tokens=31)
    (a, usage), (b, _) = whole.step(batch(), Grpo().loss), cut.step(batch(), Grpo().loss)
    for name in ("loss", "value_error", "critic_grad_norm", "grad_norm"):
        assert a[name] == pytest.approx(b[name], rel=1e-4), name
    attended, heads = sum(map(causal_attended, LENGTHS)), sum(int(s.mask.sum()) for s in batch())
    passes = (config(), sum(LENGTHS), attended, heads)
    assert usage.update_flops == pytest.approx(3 * forward_flops(*passes) + 3 * forward_flops(*passes, outputs=1)
                                               + whole.optimizer.flops)  # fmt: skip
    assert (whole.optimizer.flops > 0) == (kind == "muon")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_its_learning_rate(scale: float) -> None:
    """AdamW's first step is the learning rate, whatever the gradient; the policy's stays what it was."""
    t = trainer(scale=scale)
    before = t.model.get_parameter("model.norm.weight").detach().clone()
    t.step(batch(), Grpo().loss)
    assert t.critic is not None and t.critic.bias.item() == pytest.approx(0.01 * scale, rel=1e-4)
    moved = (t.model.get_parameter("model.norm.weight") - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-2, atol=0.0)


def test_it_is_clipped_by_itself() -> None:
    """A critic that is far off does not make the policy's step smaller."""
    loud = [replace(s, returns=1000 * s.returns) for s in batch()]  # type: ignore[operator]
    a, b = trainer(max_grad_norm=1e-3), trainer(max_grad_norm=1e-3)
    a.step(batch(), Grpo().loss)
    assert b.step(loud, Grpo().loss)[0]["critic_grad_norm"] > 100
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert float(torch.stack([p.grad.norm() for p in b.critic_parameters if p.grad is not None]).norm()) < 1.01e-3


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "an adapter"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_it_continues_to_the_bit(kind: str, lora: bool, tmp_path: Path) -> None:
    def made() -> Trainer:
        model = decoder()
        if lora:
            adapt.attach(model, 2, 4.0, (), torch.Generator().manual_seed(1), "toy")
        return trainer(model=model, kind=kind)

    through = made()
    errors = [through.step(batch(i), Grpo().loss)[0]["value_error"] for i in range(3)]
    start = copy.deepcopy(through.model.state_dict())
    checkpoint.save(through, checkpoint.Progress(3, 1), tmp_path)
    errors += [through.step(batch(i), Grpo().loss)[0]["value_error"] for i in range(3, 6)]
    resumed = made()
    resumed.model.load_state_dict(start)
    checkpoint.load(resumed, tmp_path)
    assert [resumed.step(batch(i), Grpo().loss)[0]["value_error"] for i in range(3, 6)] == errors[3:]
    pairs = zip([*resumed.parameters, *resumed.critic_parameters], [*through.parameters, *through.critic_parameters], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    saved = torch.load(tmp_path / checkpoint.FILE, weights_only=True)["critic_model"]
    assert through.critic_model is not None
    assert saved.keys() == {n for n, p in through.critic_model.named_parameters() if p.requires_grad}


def test_a_finished_stage_keeps_it_no_longer(tmp_path: Path) -> None:
    t = trainer()
    t.step(batch(), Grpo().loss)
    checkpoint.save(t, checkpoint.Progress(1, 1), tmp_path)
    assert checkpoint.drop_optimizer(tmp_path / checkpoint.FILE) > 0
    dropped = torch.load(tmp_path / checkpoint.FILE, weights_only=True)
    checkpoint.save(t, checkpoint.Progress(1, 1), tmp_path, final=True)
    final = torch.load(tmp_path / checkpoint.FILE, weights_only=True)
    assert dropped["critic_model"] == final["critic_model"] == dropped["optimizer"] == final["optimizer"] == {}
    assert checkpoint.load(trainer(), tmp_path) == checkpoint.Progress(1, 1)


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    t = trainer(model=decoder(config(num_hidden_layers=1)))
    hf.save(t.model, tokenizer(SMALL.vocab_size), tmp_path)
    checkpoint.save(t, checkpoint.Progress(0, 0), tmp_path)
    with pytest.raises(UserError, match="resume with the recipe"):
        checkpoint.load(trainer(), tmp_path)


def test_only_algorithms_with_a_critic_have_the_option() -> None:
    with pytest.raises(UserError, match="has no option 'critic'"):
        make_algorithm(Plugin(name="grpo", critic="model"))
    with pytest.raises(UserError, match="'head' or 'model'"):
        make_algorithm(Plugin(name="ppo", critic="other"))
    kinds: list[Algorithm] = [make_algorithm(Plugin(name=n)) for n in ("grpo", "gae", "ppo", "bradley_terry")]
    assert not any(a.critic_model for a in kinds)
