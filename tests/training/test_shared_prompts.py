"""Prompts that several samples share: computed once, and nothing else changes.

Run: .venv/bin/python -m pytest tests/training/test_shared_prompts.py   (about 4 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from toys import config, decoder

from outdo.models.decoder import Decoder
from outdo.models.flops import causal_attended, update_flops
from outdo.recipe import OptimizerConfig
from outdo.training import batch
from outdo.training.batch import families, micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import Sample


def sample(prompt: Sequence[int], reply: int, seed: int, observed: Sequence[int] = ()) -> Sample:
    """A prompt, a reply and, where given, an observation in the reply's middle that does not train."""
    rng = np.random.default_rng(seed)
    tokens = np.array([*prompt, *rng.integers(0, 29, reply), *observed, *rng.integers(0, 29, 2 if observed else 0)])
    mask = np.arange(len(tokens)) >= len(prompt)
    mask[len(prompt) + reply : len(prompt) + reply + len(observed)] = False
    random = rng.normal(size=(2, len(tokens))).astype(np.float32)
    return Sample(tokens, mask, np.where(mask, random[0], 0), np.where(mask, -np.abs(random[1]), 0), np.where(mask, random[1], 0))


def groups() -> list[Sample]:
    """Prompts of 20, 17, 30 and 5 tokens, 5, 2, 1 and 3 replies of different lengths, shuffled."""
    rng = np.random.default_rng(0)
    out = [sample(rng.integers(0, 29, 0).tolist() + prompt, 1 + (3 * i) % 8, 10 * n + i, [3, 4] if i == 1 else ())
           for n, (prompt, size) in enumerate((rng.integers(0, 29, length).tolist(), size)
                                              for length, size in ((20, 5), (17, 2), (30, 1), (5, 3)))
           for i in range(size)]  # fmt: skip
    return [out[i] for i in rng.permutation(len(out))]


def gradients(model: Decoder, samples: Sequence[Sample], share: bool, micro_tokens: int,
              long: bool = False, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[float]]:
    """Of sum(advantage * logprob), and the log-probs sorted by what they belong to."""
    model.zero_grad()
    trainer = Trainer(model, Optimizer(model, OptimizerConfig()), dtype)
    seen: list[float] = []
    for b in micro_batches(samples, micro_tokens, share, long):
        logprobs, _ = trainer.forward(b)
        (logprobs * b.advantages_N).sum().backward()
        seen += [float(x) for _, x in sorted(zip(b.advantages_N.tolist(), logprobs.tolist(), strict=True))]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], sorted(seen)


@pytest.mark.parametrize("longest", [40, 60, 512])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("micro_tokens", [1, 10**6])
@pytest.mark.parametrize("long", [False, True])
def test_gradients_are_those_of_whole_samples(long: bool, longest: int, window: int | None, micro_tokens: int,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_FAMILY_TOKENS", longest)
    model = decoder(config(max_position_embeddings=128, windows=() if window is None else (window, None)))
    want, logprobs = gradients(model, groups(), False, micro_tokens)
    got, mine = gradients(model, groups(), True, micro_tokens, long)
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(logprobs), rtol=0, atol=2e-5)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=2e-5 * float(w.abs().max()))
    other, _ = gradients(model, groups()[1:], True, micro_tokens)
    assert max(float((o - w).abs().max()) for o, w in zip(other, want, strict=True)) > 0.01


@pytest.mark.parametrize("share", [False, True])
def test_rows_beyond_the_context_in_bf16(share: bool) -> None:
    """Rows of 170 tokens where the context is 64, by the compiled kernels where there are any, against short ones in float32."""
    model = decoder(config(max_position_embeddings=64, hidden_size=64, num_attention_heads=2, num_key_value_heads=2), std=0.1)
    want, logprobs = gradients(model, groups(), False, 10**6)
    got, mine = gradients(model, groups(), share, 10**6, long=True, dtype=torch.bfloat16)
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(logprobs), rtol=0, atol=0.04)
    for g, w in zip(got, want, strict=True):
        assert float((g - w).norm()) < 0.03 * float(w.norm())


def test_what_is_shared() -> None:
    found = {(f.shared, len(f.samples)) for f in families(groups())}
    assert found == {(20, 5), (17, 2), (0, 1)}, "alone, or behind a short prompt, nothing is shared"
    assert sum(len(f.samples) for f in families(groups())) == len(groups())


def test_only_what_is_computed_is_charged() -> None:
    prompt = list(range(20))
    three = [sample(prompt, 4, i) for i in range(3)]
    model = decoder()
    trainer = Trainer(model, Optimizer(model, OptimizerConfig()), torch.float32)
    _, usage = trainer.step(three, lambda b, n: ((b.logprobs * b.advantages).sum() / n.tokens, {}))
    assert usage.train_tokens == 20 + 3 * 4
    attended = causal_attended(20) + 3 * causal_attended(24, 20)
    assert usage.update_flops == update_flops(model.config, 32, attended, 12) + trainer.optimizer.flops


def test_no_family_is_longer_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_FAMILY_TOKENS", 50)
    many = [sample(list(range(20)), 8, i) for i in range(9)]
    found = families(many)
    assert [len(f.samples) for f in found] == [3, 3, 3] and all(f.tokens == 44 for f in found)
    assert {b.tokens_BT.shape[1] for b in micro_batches(many, 10**6, share=True)} == {44}
