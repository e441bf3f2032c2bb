"""models/attention.py against its slow twin in plain torch: values and gradients.

Run: .venv/bin/python -m pytest tests/parity/test_attention.py   (about 4 s on one core)
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from outdo.models.attention import attend, attend_causal, attend_fused, causal_bias, split_heads
from outdo.models.ops import turn_pairs

B, T, D = 3, 12, 6
INFINITY = float("inf")


def angles(positions: int) -> Tensor:
    return torch.outer(torch.arange(positions, dtype=torch.float64), 0.7 ** torch.arange(D // 2, dtype=torch.float64))


def turn(positions: int) -> Tensor:
    a = angles(positions)
    return torch.polar(torch.ones_like(a), a).to(torch.complex64).unsqueeze(1)


def twin_turn(x: Tensor, a: Tensor) -> Tensor:
    """The rotation matrix written out, on neighbouring pairs: x [..., D], a broadcast to [..., D / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos()), -1).flatten(-2)


def twin_split(x: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    split = x.view(B, T, heads + 2 * kv_heads, D).transpose(1, 2)
    a = angles(T)
    return twin_turn(split[:, :heads], a), twin_turn(split[:, heads:-kv_heads], a), split[:, -kv_heads:]


def twin_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    bias = bias if bias.dim() == 2 else bias[:, None]
    return (torch.softmax(q @ k.transpose(2, 3) + bias, -1) @ v).transpose(1, 2).flatten(2)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def segments() -> Tensor:
    """Rows with one, two and three sequences and padding behind the last."""
    return torch.tensor([[0] * 12, [1] * 5 + [2] * 7, [3] * 4 + [4] + [5] * 3 + [-1] * 4])


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype and got.shape == want.shape
    tolerance = 1e-5 if dtype == torch.float32 else 4 * 2.0**-8
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_split_heads(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    x = draw(B, T, (heads + 2 * kv_heads) * D).to(dtype)
    grads = [draw(B, n, T, D, seed=i).to(dtype) for i, n in enumerate((heads, kv_heads, kv_heads))]
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    got, want = split_heads(ours, turn(T), heads, kv_heads), twin_split(theirs, heads, kv_heads)
    for g, w in zip(got, want, strict=True):
        close(g.detach(), w.detach(), dtype)
        assert g.is_contiguous()
    torch.autograd.backward(got, grads)
    torch.autograd.backward(want, [g.double() for g in grads])
    assert ours.grad is not None and theirs.grad is not None
    close(ours.grad, theirs.grad, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block", [1, 5, 6, 12, 99])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_attend_causal(heads: int, kv_heads: int, block: int, packed: bool, dtype: torch.dtype) -> None:
    """Whatever the block size: a dense softmax over the whole square."""
    inputs = [draw(B, n, T, D, seed=i).to(dtype) for i, n in enumerate((heads, kv_heads, kv_heads))]
    grad = draw(B, T, heads * D, seed=9).to(dtype)
    bias = causal_bias(torch.zeros(B, T), segments() if packed else None, dtype)
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.double().requires_grad_() for x in inputs]
    got, want = attend_causal(*ours, bias, block), twin_attend(*theirs, bias.double())
    close(got.detach(), want.detach(), dtype)
    gradients = torch.autograd.grad(got, ours, grad), torch.autograd.grad(want, theirs, grad.double())
    for g, w in zip(*gradients, strict=True):
        close(g, w, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["causal", "bias", "segments", "decoding"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_attend_fused(heads: int, kv_heads: int, case: str, dtype: torch.dtype) -> None:
    """What GPUs take, here by the CPU's kernels."""
    queries = 2 if case == "decoding" else T
    inputs = [draw(B, n, t, D, seed=i).to(dtype) for i, (n, t) in enumerate([(heads, queries), (kv_heads, T), (kv_heads, T)])]
    bias = causal_bias(torch.zeros(B, T), segments() if case == "segments" else None, dtype)[..., -queries:, :]
    grad = draw(B, queries, heads * D, seed=9).to(dtype)
    ours, theirs = [x.clone().requires_grad_() for x in inputs], [x.double().requires_grad_() for x in inputs]
    got, want = attend_fused(*ours, None if case == "causal" else bias), twin_attend(*theirs, bias.double())
    close(got.detach(), want.detach(), dtype)
    for g, w in zip(torch.autograd.grad(got, ours, grad), torch.autograd.grad(want, theirs, grad.double()), strict=True):
        close(g, w, dtype)


def test_hidden_keys_pass_nothing() -> None:
    """What a query may not see changes neither its result nor gets a gradient from it."""
    bias = causal_bias(torch.zeros(B, T), segments(), torch.float32)
    q, k, v = (draw(B, 2, T, D, seed=i).float().requires_grad_() for i in range(3))
    out = attend_causal(q, k, v, bias)
    grads = torch.autograd.grad(out[1, 5:].sum(), (k, v))
    for g in grads:
        assert g.isfinite().all() and (g[1, :, :5] == 0).all() and (g[0] == 0).all() and (g[1, :, 5:] != 0).any()


@pytest.mark.parametrize("aligned", [True, False])
def test_attend_for_decoding(aligned: bool) -> None:
    """Two new tokens per row against a cache of T keys, rows at one or at different positions."""
    q, k, v = draw(B, 4, 2, D), draw(B, 2, T, D, seed=1), draw(B, 2, T, D, seed=2)
    ends = torch.tensor([7, 7, 7] if aligned else [3, 7, 10])
    at = ends[:, None] + torch.arange(2)
    bias = torch.zeros(B, 2, T, dtype=torch.float64).masked_fill_(torch.arange(T) > at[..., None], -INFINITY)
    close(attend(q.float(), k.float(), v.float(), (bias[0] if aligned else bias).float()),
          twin_attend(q, k, v, bias), torch.float32)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turn_pairs_into_strided_memory(dtype: torch.dtype) -> None:
    """Rows at different positions, in and out both parts of larger tensors."""
    table, at = turn(20), torch.tensor([[0, 1], [5, 6], [18, 19]])
    x, out = draw(3, 2, 9, D).to(dtype), torch.zeros(3, 8, 2, D, dtype=dtype)
    before = x.clone()
    turn_pairs(x[:, :, 2:6], table[at], out[:, 3:7].transpose(1, 2))
    want = twin_turn(x[:, :, 2:6].double(), angles(20)[at][:, :, None])
    close(out[:, 3:7].transpose(1, 2), want, dtype)
    assert (out[:, :3] == 0).all() and (out[:, 7:] == 0).all() and torch.equal(x, before)
