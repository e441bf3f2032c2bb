"""The sampler draws from softmax(logits / temperature), and from nothing else.

Run: .venv/bin/python -m pytest tests/rollout/test_sampler.py   (about 4 s on one core)
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from outdo.rollout.sampler import sample

ALMOST_ONE = 1.0 - 2.0**-53  # the largest uniform number that `randomness.uniform` gives


def draws(logits: torch.Tensor, n: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    uniform = torch.from_numpy(np.random.default_rng(seed).random(n))
    return sample(logits.expand(n, -1), uniform, temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_distribution(temperature: float) -> None:
    """Chi-square of 200,000 draws; a temperature that is off by a tenth is told apart."""
    logits = torch.tensor([1.2, -0.3, 0.0, 2.5, -4.0, 0.7, 0.7, -1.0])
    tokens, logprobs = draws(logits, 200_000, temperature)
    counts = np.bincount(tokens.numpy(), minlength=8)

    def p_value(t: float) -> float:
        expected = torch.softmax(logits.double() / t, -1).numpy() * len(tokens)
        return float(chisquare(counts, expected).pvalue)

    assert p_value(temperature) > 1e-3
    assert p_value(temperature * 1.1) < 1e-9
    want = torch.log_softmax(logits.double() / temperature, -1)[tokens]
    torch.testing.assert_close(logprobs.double(), want, rtol=0, atol=1e-6)
    assert logprobs.dtype == torch.float32


def test_large_vocabulary() -> None:
    """49,152 equally likely tokens: the one drawn is the uniform number's place, up to a float32 sum's rounding."""
    vocab = 49_152
    uniform = torch.from_numpy(np.random.default_rng(1).random(64))
    tokens, _ = sample(torch.zeros(64, vocab), uniform, 1.0)
    assert (tokens - (uniform * vocab).floor().long()).abs().max() <= 4
    counts = np.bincount(draws(torch.zeros(1, 1024), 20_000, 1.0)[0].numpy() // 16, minlength=64)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("impossible", [float("-inf"), -200.0])
def test_impossible_tokens_are_never_drawn(where: str, impossible: float) -> None:
    """-inf, and logits so low that their probability is 0 in float32; also at both ends of the uniform numbers."""
    at = {"first": slice(0, 3), "middle": slice(4, 9), "last": slice(9, 12)}[where]
    logits = torch.linspace(-1.0, 1.0, 12)
    logits[at] = impossible
    uniform = torch.from_numpy(np.concatenate([np.linspace(0, 1, 100_001)[:-1], [ALMOST_ONE, 1 - 2.0**-25, 1 - 2.0**-30]]))
    tokens, logprobs = sample(logits.expand(len(uniform), -1), uniform, 1.0)
    assert logprobs.isfinite().all() and float(logprobs.min()) > -20
    possible = set(range(12)) - set(range(12)[at])
    assert set(tokens.tolist()) == possible


@pytest.mark.parametrize("scale", [1.0, 0.37, 5.0])
def test_last_uniform_number_never_leaves_the_distribution(scale: float) -> None:
    """Sums that round to a little more or less than 1."""
    for seed in range(200):
        logits = scale * torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
        logits[0, -1] = float("-inf")
        token, _ = sample(logits, torch.tensor([ALMOST_ONE], dtype=torch.float64), 1.0)
        assert int(token) < 49


def test_monotone_in_the_uniform_number() -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(0, ALMOST_ONE, 5000, dtype=torch.float64)
    tokens, _ = sample(logits.expand(5000, -1), uniform, 1.0)
    assert (tokens.diff() >= 0).all() and tokens[0] == 0 and tokens[-1] == 29


def test_greedy() -> None:
    """The argmax, with its log-probability at temperature 1; the uniform numbers do not matter."""
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = sample(logits, torch.rand(40, dtype=torch.float64), 0.0)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).amax(-1))


def test_rows_are_independent() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together, _ = sample(logits, uniform, 0.8)
    assert together.tolist() == [int(sample(logits[i : i + 1], uniform[i : i + 1], 0.8)[0]) for i in range(50)]


def test_logits_are_left_alone() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    for temperature in (0.0, 0.5, 1.0):
        sample(logits, torch.rand(4, dtype=torch.float64), temperature)
    assert torch.equal(logits, before)
