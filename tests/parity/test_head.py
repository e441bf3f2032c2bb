"""Log-probabilities of tokens in chunks, products with prepacked weights and drawing by blocks, against plain torch.

Run: .venv/bin/python -m pytest tests/parity/test_head.py   (about 3 s on one core)
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outdo.kernels import Panels
from outdo.models import head
from outdo.models.head import token_logprobs
from outdo.models.ops import linear, prepack
from outdo.rollout.sampler import sample


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_token_logprobs(dtype: torch.dtype, temperature: float, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    N, D, V = 10, 16, 40
    monkeypatch.setattr(head, "_CHUNK_BYTES", 4 * V * rows_at_a_time)
    hidden, weight = (draw(n, D, seed=n).to(dtype).requires_grad_() for n in (N, V))
    targets, grad = torch.arange(N) * 3 % V, draw(N, seed=5)
    twins = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    logits = twins[0] @ twins[1].T
    if dtype == torch.bfloat16:  # logits are rounded to the compute dtype, in both directions
        logits = logits + (logits.detach().to(dtype).double() - logits.detach())
    want = torch.log_softmax(logits / temperature, -1)[torch.arange(N), targets]
    got = token_logprobs(hidden, weight, targets, temperature)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)
    grads = torch.autograd.grad(got, (hidden, weight), grad), torch.autograd.grad(want, twins, grad.double())
    for g, w in zip(*grads, strict=True):
        tolerance = (1e-5 if dtype == torch.float32 else 2.0**-6) * float(w.abs().max())
        torch.testing.assert_close(g.double(), w, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_prepacked_products(dtype: torch.dtype, bias: bool) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bf16 hardware: weights stay in their order")
    for rows, width, D in ((1, 80, 48), (4, 49, 34), (8, 96, 2), (33, 7, 48)):
        x, weight = draw(rows, 2, D).to(dtype), draw(width, D, seed=1).to(dtype)
        b = draw(width, seed=2).to(dtype) if bias else None
        packed = prepack(weight)
        assert isinstance(packed, Panels) or packed.is_mkldnn, "this machine prepacks nothing; the test says nothing"
        want = x.double() @ weight.double().T + (0 if b is None else b.double())
        got = linear(x, packed, b)
        assert got.dtype == dtype and got.shape == want.shape
        exact = dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-5 if exact else 2.0**-8, atol=2e-5 if exact else 1e-2)


@pytest.mark.parametrize("vocabulary", [37, 300, 512, 1024])
def test_drawing_by_blocks(vocabulary: int) -> None:
    """The token whose stretch of the whole cumulative distribution, in float64, holds the uniform number."""
    logits = 2 * draw(4000, vocabulary)
    uniform = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = sample(logits, uniform, 1.0)
    exact = torch.log_softmax(logits.double(), -1)
    cdf = exact.exp().cumsum(-1)
    want = torch.searchsorted(cdf, uniform[:, None], right=True).squeeze(1)
    torch.testing.assert_close(logprobs.double(), exact.gather(1, tokens[:, None]).squeeze(1), rtol=0, atol=2e-6)
    for row in torch.nonzero(tokens != want).flatten().tolist():  # only within rounding of a border
        assert float((cdf[row] - uniform[row]).abs().min()) < 1e-6
    assert float((tokens != want).float().mean()) < 0.01
