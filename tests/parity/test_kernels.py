"""The compiled kernels against their slow twins: attention in float64, masks by `causal_bias`, and what happens without them.

Run: .venv/bin/python -m pytest tests/parity/test_kernels.py   (about 5 s on one core; skipped where nothing can be compiled)
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from outdo import kernels
from outdo.models.attention import attend_rows, causal_bias, causal_mask
from outdo.models.base import Prompts
from outdo.models.ops import add_normalize, linear, swiglu_linear

compiled = pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels for this machine")
BF16 = torch.bfloat16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def turn(positions: int, d: int) -> Tensor:
    angles = torch.outer(torch.arange(positions), 0.7 ** torch.arange(d // 2))
    return torch.polar(torch.ones_like(angles), angles).unsqueeze(1)


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """x [..., heads, d] in neighbouring pairs, table [..., 1, d/2]."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * table.to(torch.complex128)).flatten(-2)


def twin(qkv: Tensor, table: Tensor | None, bias: Tensor, heads: int, kv_heads: int) -> Tensor:
    """float64 qkv [B, T, (H + 2K) * d], bias [B or 1, T, T] -> [B, T, H * d]."""
    B, T, _ = qkv.shape
    split = qkv.view(B, T, heads + 2 * kv_heads, -1)
    turned, v = split[:, :, :-kv_heads], split[:, :, -kv_heads:]
    if table is not None:
        turned = rotated(turned, table)
    q, k, v = (x.transpose(1, 2) for x in (turned[:, :, :heads], turned[:, :, heads:], v))
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    return (torch.softmax(q @ k.transpose(2, 3) + bias[:, None], -1) @ v).transpose(1, 2).flatten(2)


def layout(kind: str, B: int, T: int) -> tuple[Tensor | None, Prompts | None]:
    """Segments, and prompts, of rows of T tokens."""
    if kind == "whole":
        return None, None
    segments = (torch.arange(T) // 7 + 10 * torch.arange(B)[:, None]).clone()
    segments[0, T - 3 :] = -1
    if kind == "segments":
        return segments, None
    parents = torch.where(segments % 10 > 0, segments - segments % 10, -2)  # the row's first segment is everybody's prompt
    positions = torch.arange(T) % 7 + 7 * (parents >= 0)
    return segments, Prompts(parents, positions)


def close(got: Tensor, want: Tensor) -> None:
    assert got.dtype == BF16 and got.shape == want.shape
    torch.testing.assert_close(got.double(), want, rtol=4 * 2.0**-8, atol=4 * 2.0**-8 * max(1.0, float(want.abs().max())))


@compiled
@pytest.mark.parametrize("window", [None, 1, 5, 20])
@pytest.mark.parametrize("kind", ["whole", "segments", "prompts"])
@pytest.mark.parametrize("T", [1, 15, 16, 33, 50])
def test_visible_is_causal_bias(T: int, kind: str, window: int | None) -> None:
    segments, prompts = layout(kind, 3, max(T, 4))
    segments = None if segments is None else segments[:, :T]
    prompts = None if prompts is None else Prompts(*(x[:, :T] for x in prompts))
    tokens = torch.zeros(3, T, dtype=torch.long)
    bias = causal_bias(tokens, segments, BF16, window, prompts)
    bits = causal_mask(tokens, segments, BF16, window, prompts, 32)
    assert bias is not None and bits is not None
    unpacked = (bits[..., None].int() >> torch.arange(16)) & 1
    assert torch.equal(unpacked.flatten(2)[..., :T].bool(), (bias == 0).expand(len(bits), T, T))
    assert not unpacked.flatten(2)[..., T:].any()


@compiled
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("kind", ["whole", "segments", "prompts"])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 4, 32), (4, 2, 16), (3, 1, 64), (2, 2, 128), (5, 1, 48)])
@pytest.mark.parametrize("T", [1, 7, 16, 31, 50, 130])
def test_attend_rows(T: int, heads: int, kv_heads: int, d: int, kind: str, rotary: bool) -> None:
    """Values and the gradient of qkv against a dense softmax in float64."""
    B = 3
    segments, prompts = layout(kind, B, T) if T > 3 else (None, None)
    tokens = torch.zeros(B, T, dtype=torch.long)
    bias, mask = causal_bias(tokens, segments, BF16, None, prompts), causal_mask(tokens, segments, BF16, None, prompts, d)
    assert bias is not None and mask is not None and mask.dtype == torch.int16
    table = turn(T + 7, d)
    table = table[:T] if prompts is None else table[prompts.positions_BT]
    x, grad = draw(B, T, (heads + 2 * kv_heads) * d) / d**0.25, draw(B, T, heads * d, seed=1)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    got = attend_rows(ours * 1, table if rotary else None, mask, heads, kv_heads)
    want = twin(theirs, table if rotary else None, bias.double().expand(B, T, T), heads, kv_heads)
    close(got.detach(), want.detach())
    close(*torch.autograd.grad(got, ours, grad), *torch.autograd.grad(want, theirs, grad.double()))


@compiled
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("slotted", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 4, 32), (9, 3, 64), (8, 1, 32), (14, 2, 64), (2, 1, 128)])
@pytest.mark.parametrize("C", [1, 3])
def test_attend_cached(C: int, heads: int, kv_heads: int, d: int, slotted: bool, window: int | None) -> None:
    """Rows at different places, in any slots, against whole rows that hold the cache's tokens and the new ones."""
    starts, slots = torch.tensor([0, 4, 17]), torch.tensor([2, 9, 0, 9, 3, 9])[::2] if slotted else None  # strided
    table, U = turn(30, d), 32
    keys, values = (draw(5, kv_heads, U, d, seed=s) for s in (1, 2))
    before = keys.clone(), values.clone()
    x = draw(3, C, (heads + 2 * kv_heads) * d) / d**0.25
    mixed = kernels.attend_cached(x, table, starts, slots, keys, values, heads, window)
    for r, start in enumerate(starts.tolist()):
        slot, end = r if slots is None else int(slots[r]), start + C
        new = x[r].double().view(C, heads + 2 * kv_heads, d)
        turned = rotated(new[:, :-kv_heads], table[start:end])
        close(keys[slot, :, start:end], turned[:, heads:].transpose(0, 1))
        assert torch.equal(values[slot, :, start:end], x[r].view(C, -1, d)[:, -kv_heads:].transpose(0, 1))
        assert torch.equal(keys[slot, :, :start], before[0][slot, :, :start])
        assert torch.equal(keys[slot, :, end:], before[0][slot, :, end:])
        for c in range(C):
            first = max(0, start + c + 1 - window) if window else 0
            seen = slice(first, start + c + 1)
            k, v = (s[slot, :, seen].double().repeat_interleave(heads // kv_heads, 0) for s in (keys, values))
            weights = torch.softmax((k @ turned[c, :heads, :, None]).squeeze(2), dim=1)
            close(mixed[r, c], (weights[:, :, None] * v).sum(1).flatten())
    untouched = [s for s in range(5) if s not in (slots.tolist() if slots is not None else range(3))]
    assert torch.equal(keys[untouched], before[0][untouched]) and torch.equal(values[untouched], before[1][untouched])


@compiled
def test_threads_change_nothing() -> None:
    """The same bits from one thread and from two, forward and backward."""

    def all_of_it() -> list[Tensor]:
        x = draw(6, 90, 12 * 32).requires_grad_()
        mask = causal_mask(torch.zeros(6, 90), None, BF16, None, None, 32)
        y = attend_rows(x * 1, turn(90, 32), mask, 4, 4)
        wide = draw(6, 90, 512, seed=3).requires_grad_()
        z = torch.cat([*add_normalize(wide, wide * 2, 1e-5), swiglu_linear(wide, torch.eye(256, dtype=BF16))], -1)
        loss = y.float().square().sum() + z.float().square().sum()
        return [y, z, *torch.autograd.grad(loss, [x, wide])]

    one = all_of_it()
    try:
        torch.set_num_threads(2)
        two = all_of_it()
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@compiled
def test_nan_comes_out_as_nan() -> None:
    """What is not finite must reach the guard of the optimiser's step."""
    x = draw(2, 5, 64)
    x[1, 2, 3] = float("nan")
    assert kernels.swiglu(x)[1, 2, 3].isnan() and kernels.swiglu(x).isnan().sum() == 1
    total, y = add_normalize(x, x, 1e-5)
    assert y[1, 2].isnan().all() and total.isnan().sum() == 1
    big = draw(1, 2, 64) * float("inf")
    assert not kernels.swiglu(big)[0, 0].isfinite().all()
    qkv = draw(1, 20, 3 * 32)
    qkv[0, 7, 5] = float("nan")
    mask = causal_mask(torch.zeros(1, 20), None, BF16, None, None, 32)
    assert attend_rows(qkv, None, mask, 1, 1)[0, 7].isnan().any()


def run(code: str, **environment: str) -> str:
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True,
                          check=True).stdout


ASK = "from outdo import kernels; print(kernels.library() is not None)"


@pytest.mark.slow
def test_without_a_compiler(tmp_path: Path) -> None:
    """No compiler, a compiler that fails, or none wanted: PyTorch computes, and nothing is left behind."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    cache = tmp_path / "cache"
    for environment in ({"OUTDO_KERNELS": "off"}, {"PATH": "/nowhere", "CC": "/nowhere/cc"}, {"CC": str(broken)}):
        assert run(ASK, OUTDO_CACHE=str(cache), **environment) == "False\n", environment
    assert not list(cache.rglob("*.so"))


@pytest.mark.slow
@compiled
def test_compiled_once(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert run(ASK, OUTDO_CACHE=str(tmp_path)) == "True\n"
        (library,) = (p for p in tmp_path.rglob("*") if p.is_file())
        made.append((library, library.stat().st_mtime_ns))
    assert made[0] == made[1]


@compiled
@pytest.mark.parametrize(("rows", "F", "D"), [(2176, 688, 128), (77, 50, 36), (300, 128, 344), (128, 8, 16), (129, 24, 48),
                                               (1, 9, 20)])
def test_sums_of_outer_products(rows: int, F: int, D: int) -> None:
    grad, x = draw(rows, F, seed=1), draw(rows, D, seed=2)
    right = grad.double().T @ x.double()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(kernels.outer(grad, x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert (found[0] - right).norm() < 0.003 * right.norm()  # bf16 has 8 bits; a sum of rows left out would be far more


@compiled
def test_linear_layers_of_small_weights_have_torchs_gradients() -> None:
    x, weight = draw(2, 70, 48).requires_grad_(), draw(96, 48, seed=1).requires_grad_()
    out = linear(x, weight)
    assert torch.equal(out, torch.nn.functional.linear(x, weight))
    grad = draw(2, 70, 96, seed=2)
    ours = torch.autograd.grad(out, (x, weight), grad)
    torchs = torch.autograd.grad(torch.nn.functional.linear(x, weight), (x, weight), grad)
    assert torch.equal(ours[0], torchs[0])
    assert (ours[1] - torchs[1]).abs().max() <= 0.01 * torchs[1].abs().max()
