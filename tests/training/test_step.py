"""One optimiser step: micro-batches, padding, masks, what is refused and what it costs.

Run: .venv/bin/python -m pytest tests/training/test_step.py   (about 6 s on one core)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import config, decoder, samples

from outdo.algorithms.grpo import Grpo
from outdo.algorithms.sft import Sft
from outdo.models.decoder import Decoder
from outdo.models.flops import causal_attended, forward_flops
from outdo.recipe import OptimizerConfig
from outdo.training.batch import micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Loss, NonFiniteError, Trainer
from outdo.types import Sample, TokenBatch, Total

LENGTHS = [9, 4, 30, 9, 17, 2, 30, 12, 5]
KINDS = ["adamw", "muon"]


def trainer(model: Decoder | None = None, *, kind: str = "adamw", dtype: torch.dtype = torch.float32,
            micro_tokens: int = 10**6, max_grad_norm: float = 1e9, temperature: float = 1.0) -> Trainer:  # fmt: skip
    model = model or decoder()
    optimizer = Optimizer(model, OptimizerConfig(kind=kind, lr=1e-3))  # type: ignore[arg-type]
    return Trainer(model, optimizer, dtype, micro_tokens=micro_tokens, max_grad_norm=max_grad_norm, temperature=temperature)


def gradients(batch: Sequence[Sample], loss: Loss, **options: object) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Unclipped gradients (they stay behind after a step) and metrics."""
    t = trainer(**options)  # type: ignore[arg-type]
    metrics, _ = t.step(batch, loss)
    return {k: p.grad.clone() for k, p in t.model.named_parameters() if p.grad is not None}, metrics


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == want.keys() and want
    for name, w in want.items():
        torch.testing.assert_close(got[name], w, rtol=tolerance, atol=tolerance * float(w.abs().max()), msg=name)


def summed(tokens: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss that does not divide by the batch: gradients of batches add up."""
    del total
    return -(tokens.logprobs * tokens.advantages).sum(), {}


def plain_gradients(batch: Sequence[Sample], temperature: float = 1.0) -> dict[str, Tensor]:
    """The slow twin of `summed`: one sequence at a time, every logit computed, no batch.py."""
    model = decoder()
    packed = model.pack(torch.float32)
    for s in batch:
        ids = torch.from_numpy(s.token_ids)
        logits = model.logits(packed, model.hidden(packed, ids[None]))[0] / temperature
        picked = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None]).squeeze(1)
        loss = -(picked * torch.from_numpy(s.advantages[1:] * s.mask[1:])).sum()
        loss.backward(retain_graph=True)
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


# --- what does not matter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("micro_tokens", [1, 40, 10**6])
def test_gradient_equals_the_slow_twin(micro_tokens: int, temperature: float) -> None:
    batch = samples(LENGTHS)
    got, _ = gradients(batch, summed, micro_tokens=micro_tokens, temperature=temperature)
    assert_same(got, plain_gradients(batch, temperature))


@pytest.mark.parametrize("loss", [Sft().loss, Grpo().loss], ids=["sft", "grpo"])
def test_accumulation_equals_one_big_batch(loss: Loss) -> None:
    batch = samples(LENGTHS, seed=1)
    want, metrics = gradients(batch, loss)
    for micro_tokens in (1, 31, 70, 200):
        got, others = gradients(batch, loss, micro_tokens=micro_tokens)
        assert_same(got, want)
        for name in metrics.keys() - {"padding_waste"}:
            assert others[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), name
        assert others["padding_waste"] <= metrics["padding_waste"]
    assert metrics["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in want.values()]).norm()), rel=1e-5)


def test_order_and_company_change_nothing() -> None:
    a, b = samples(LENGTHS, seed=2), samples([50, 3, 30], seed=3)
    alone_a, alone_b = gradients(a, summed)[0], gradients(b, summed)[0]
    both = {k: alone_a[k] + alone_b[k] for k in alone_a}
    for mixed in (a + b, b + a[::-1], [*a[4:], *b, *a[:4]]):
        for micro_tokens in (60, 10**6):
            assert_same(gradients(mixed, summed, micro_tokens=micro_tokens)[0], both, 3e-5)


def test_masked_tokens_are_inert() -> None:
    """Advantages and old log-probs off the mask change no bit; tokens behind the last trained one change nothing."""
    batch = samples(LENGTHS, seed=4)
    want, _ = gradients(batch, Grpo().loss)
    noisy = [replace(s, advantages=np.where(s.mask, s.advantages, np.float32(9.0)),
                     logprobs=np.where(s.mask, s.logprobs, np.float32(-7.0))) for s in batch]  # fmt: skip
    got, _ = gradients(noisy, Grpo().loss)
    assert all(torch.equal(got[k], w) for k, w in want.items())
    longer = []
    for i, s in enumerate(batch):
        more = i % 4
        tail = np.zeros(more, np.float32)
        longer.append(Sample(np.append(s.token_ids, np.full(more, i)), np.append(s.mask, tail > 0),
                             np.append(s.advantages, tail), np.append(s.logprobs, tail)))  # fmt: skip
    assert_same(gradients(longer, Grpo().loss)[0], want)


def test_trained_context_matters() -> None:
    """The tests above are not vacuous: an earlier token that does not train still changes the gradient."""
    batch = samples([20], seed=5)
    other = replace(batch[0], token_ids=np.append((batch[0].token_ids[:1] + 1) % 29, batch[0].token_ids[1:]))
    a, b = gradients(batch, summed)[0], gradients([other], summed)[0]
    assert any(not torch.allclose(a[k], b[k], rtol=1e-2) for k in a)


def test_sequence_without_trained_tokens_adds_nothing() -> None:
    batch = samples(LENGTHS, seed=6)
    empty = replace(batch[2], mask=np.zeros_like(batch[2].mask))
    want, _ = gradients(batch, Sft().loss)
    for micro_tokens in (1, 10**6):
        assert_same(gradients([*batch, empty], Sft().loss, micro_tokens=micro_tokens)[0], want)


def test_nothing_to_train_is_an_error() -> None:
    empty = [replace(s, mask=np.zeros_like(s.mask)) for s in samples(LENGTHS)]
    for batch in ([], empty):
        with pytest.raises(ValueError, match="trains"):
            trainer().step(batch, Sft().loss)


# --- the step itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_reduce_the_loss(kind: str, dtype: torch.dtype) -> None:
    t, batch = trainer(kind=kind, dtype=dtype, max_grad_norm=1.0), samples(LENGTHS, seed=7)
    batch = [replace(s, advantages=s.mask.astype(np.float32)) for s in batch]
    before = {k: p.detach().clone() for k, p in t.model.named_parameters()}
    losses = [t.step(batch, Sft().loss)[0]["loss"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0] and t.steps == 20
    for name, p in t.model.named_parameters():
        assert not torch.equal(p, before[name]) and p.dtype == torch.float32, name


def test_bf16_gradient_points_the_same_way() -> None:
    batch = samples(LENGTHS * 3, seed=8)
    exact, _ = gradients(batch, Sft().loss)
    rough, _ = gradients(batch, Sft().loss, dtype=torch.bfloat16)
    a, b = (torch.cat([g.flatten() for g in x.values()]) for x in (exact, rough))
    assert not torch.equal(a, b)
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.999


def test_gradient_is_clipped_to_the_norm() -> None:
    batch = samples(LENGTHS, seed=9)
    want, metrics = gradients(batch, summed)
    got, clipped = gradients(batch, summed, max_grad_norm=0.1)
    assert metrics["grad_norm"] == pytest.approx(clipped["grad_norm"]) and metrics["grad_norm"] > 0.1
    assert_same(got, {k: g * 0.1 / metrics["grad_norm"] for k, g in want.items()})


def test_metrics_are_means_over_all_trained_tokens() -> None:
    batch = samples(LENGTHS, seed=10)
    _, metrics = gradients(batch, Sft().loss, micro_tokens=31)
    total = sum(int(s.mask.sum()) for s in batch)
    assert metrics["trained_tokens"] == total
    t = trainer()
    (together,) = micro_batches(batch, 10**6)
    with torch.no_grad():
        logprobs = t.forward(together)[0]
    assert metrics["nll"] == pytest.approx(float(-(logprobs * together.advantages_N).mean()), rel=1e-4)
    assert metrics["loss"] == pytest.approx(metrics["nll"], rel=1e-4)
    assert metrics["logprob_gap"] == pytest.approx(float((logprobs - together.old_logprobs_N).abs().mean()), rel=1e-4)


@pytest.mark.parametrize("micro_tokens", [1, 31, 10**6])
def test_usage(micro_tokens: int) -> None:
    """Real tokens, not padded ones: three forward passes of every sequence, logits where a token trains."""
    batch = samples(LENGTHS, seed=11)
    _, usage = trainer(micro_tokens=micro_tokens).step(batch, Sft().loss)
    heads = sum(int(s.mask.sum()) for s in batch)
    attended = sum(causal_attended(n) for n in LENGTHS)
    assert usage.train_tokens == sum(LENGTHS)
    assert usage.update_flops == usage.flops == pytest.approx(3 * forward_flops(config(), sum(LENGTHS), attended, heads))


# --- what is refused ------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, through lists, dicts and tensors."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def nan_loss(tokens: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
    """Non-finite only in the micro-batch that holds the marked token."""
    bad = tokens.advantages > 50
    return torch.where(bad, torch.nan, -tokens.logprobs).sum() / total.tokens, {}


def inf_loss(tokens: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
    bad = tokens.advantages > 50
    return torch.where(bad, torch.inf, -tokens.logprobs).sum() / total.tokens, {}


def nan_gradient(tokens: TokenBatch, total: Total) -> tuple[Tensor, dict[str, Tensor]]:
    """A finite loss whose derivative is infinite: sqrt at 0."""
    root = (tokens.logprobs - tokens.logprobs.detach()).clamp(min=0).sqrt()
    return (-tokens.logprobs + torch.where(tokens.advantages > 50, root, 0.0)).sum() / total.tokens, {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("loss", "what"), [(nan_loss, "loss"), (inf_loss, "loss"), (nan_gradient, "gradient")])
@pytest.mark.parametrize("place", [2, 5], ids=["first micro-batch", "last micro-batch"])
def test_non_finite_is_refused_and_leaves_everything(loss: Loss, what: str, kind: str, place: int) -> None:
    good, t = samples(LENGTHS, seed=12), trainer(kind=kind, micro_tokens=31, max_grad_norm=1.0)
    advantages = good[place].advantages.copy()
    advantages[-1] = 99.0
    bad = [replace(s, advantages=advantages) if i == place else s for i, s in enumerate(good)]
    t.step(good, Sft().loss)
    weights = {k: v.clone() for k, v in t.model.state_dict().items()}
    state = copy.deepcopy(t.optimizer.state_dict())
    with pytest.raises(NonFiniteError, match=what) as error:
        t.step(bad, loss)
    assert error.value.samples is bad and t.steps == 1
    assert all(torch.equal(v, weights[k]) for k, v in t.model.state_dict().items())
    assert same(t.optimizer.state_dict(), state)
    # The gradients that the refused step left behind do not reach the next one.
    twin = trainer(kind=kind, micro_tokens=31, max_grad_norm=1.0)
    for _ in range(2):
        twin.step(good, Sft().loss)
    t.step(good, Sft().loss)
    assert all(torch.equal(v, twin.model.state_dict()[k]) for k, v in t.model.state_dict().items())


def test_non_finite_weights_are_noticed() -> None:
    """A batch through a model that is already broken does not make the optimiser's state worse."""
    t = trainer()
    with torch.no_grad():
        t.model.model.embed_tokens.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        t.step(
            [Sample(np.zeros(5, np.int64), np.arange(5) > 0, np.ones(5, np.float32), np.zeros(5, np.float32))],
            Sft().loss,
        )
    assert all(not part["state"] for part in t.optimizer.state_dict())
