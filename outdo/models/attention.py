"""Attention on a CPU by compiled kernels, or without them by batched products; by torch's fused kernels on a GPU.

For rows of a few dozen to a few hundred tokens on a CPU the fused kernel's backward took half of a training step. Here the
pieces around the products are few as well: one gradient tensor for q, k and v together instead of three padded with zeros.

Shapes: B rows, T query tokens, U key tokens, H query heads, K key-value heads, d head size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from outdo import kernels
from outdo.models.base import Prompts
from outdo.models.ops import apply, turn_pairs, turned_pairs

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # cuDNN's makes a plan for every shape


def causal_bias(tokens_BT: Tensor, segments_BT: Tensor | None, dtype: torch.dtype, window: int | None = None,
                prompts: Prompts | None = None) -> Tensor | None:
    """0 where a query may look, -inf elsewhere: [T, T] for all rows, or [B, T, T] where rows hold several segments.

    window: a query sees at most so many keys, itself and the ones before it. prompts: segments that go on from another.
    None on a GPU where a query may look at all that is before it: the fused kernels need no bias to be told so.
    """
    T = tokens_BT.shape[1]
    if tokens_BT.device.type != "cpu" and segments_BT is None and (window is None or window >= T):
        return None
    hidden = torch.ones((T, T), dtype=torch.bool, device=tokens_BT.device).triu_(1)
    if window is not None and prompts is None:
        hidden |= torch.ones_like(hidden).tril_(-window)
    if segments_BT is not None:
        others = segments_BT[:, :, None] != segments_BT[:, None, :]
        if prompts is not None:
            others &= prompts.parents_BT[:, :, None] != segments_BT[:, None, :]
            if window is not None:
                others |= prompts.positions_BT[:, :, None] - prompts.positions_BT[:, None, :] >= window
        hidden = hidden | others
    return torch.zeros(hidden.shape, dtype=dtype, device=tokens_BT.device).masked_fill_(hidden, float("-inf"))


def causal_mask(tokens_BT: Tensor, segments_BT: Tensor | None, dtype: torch.dtype, window: int | None, prompts: Prompts | None,
                d: int) -> Tensor | None:
    """`causal_bias` as `attend_rows` wants it for heads of size d: where compiled kernels will read it, as bits."""
    if not skips_hidden(tokens_BT.device, dtype, d):
        return causal_bias(tokens_BT, segments_BT, dtype, window, prompts)
    segments_BT = torch.zeros_like(tokens_BT[:1]) if segments_BT is None else segments_BT
    parents_BT, positions_BT = prompts if prompts is not None else (None, None)
    return kernels.visible(segments_BT, parents_BT, positions_BT, window)


def skips_hidden(device: torch.device, dtype: torch.dtype, d: int) -> bool:
    """Whether keys that a query does not see cost next to nothing: rows may then hold many segments."""
    return kernels.usable(device, dtype) and d % 16 == 0


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, turn: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        B, T, _ = x.shape
        split = x.view(B, T, heads + 2 * kv_heads, -1)
        ctx.save_for_backward(turn)
        q, k, v = (x.new_empty(B, n, T, split.shape[3]) for n in (heads, kv_heads, kv_heads))
        turned = turned_pairs(split[:, :, : heads + kv_heads], turn)
        q.copy_(turned[:, :, :heads].transpose(1, 2))
        k.copy_(turned[:, :, heads:].transpose(1, 2))
        v.copy_(split[:, :, heads + kv_heads :].transpose(1, 2))
        return q, k, v

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, None, None, None]:
        back = ctx.saved_tensors[0].conj()
        B, H, T, d = grad_q.shape
        K = grad_k.shape[1]
        out = grad_q.new_empty(B, T, H + 2 * K, d)
        turn_pairs(grad_q.transpose(1, 2), back, out[:, :, :H])
        turn_pairs(grad_k.transpose(1, 2), back, out[:, :, H : H + K])
        out[:, :, H + K :] = grad_v.transpose(1, 2)
        return out.view(B, T, -1), None, None, None


def split_heads(x: Tensor, turn: Tensor | None, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, T, (H + 2K) * d] -> rotated q [B, H, T, d], rotated k [B, K, T, d], plain v [B, K, T, d].

    turn: complex64 [T, 1, d/2], or [B, T, 1, d/2] where rows stand at different positions; None: no rotation. All results are
    contiguous.
    """
    if turn is None:
        turn = torch.ones((1, 1, x.shape[2] // (heads + 2 * kv_heads) // 2), dtype=torch.complex64, device=x.device)
    out: tuple[Tensor, Tensor, Tensor] = apply(_SplitHeads, x, turn, heads, kv_heads)
    return out


def _scores(q: Tensor, k: Tensor, bias: Tensor, groups: int) -> Tensor:
    """q [B * K, groups * T, d], k [B * K, U, d], bias [T, U] or [B, T, U] -> q k' + bias [B * K, groups * T, U]."""
    if bias.dim() == 2:
        return torch.baddbmm(bias.repeat(groups, 1) if groups > 1 and len(bias) > 1 else bias, q, k.transpose(1, 2))
    scores = torch.bmm(q, k.transpose(1, 2))
    B, T, U = bias.shape
    scores.view(B, -1, T, U).add_(bias[:, None])  # in place: spread over the heads first, the bias would be as large
    return scores


class _AttendCausal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, block: int) -> Tensor:
        B, H, T, d = q.shape
        K, groups = k.shape[1], H // k.shape[1]
        keys, values = k.reshape(B * K, T, d), v.reshape(B * K, T, d)
        out = q.new_empty(B, T, H, d)
        saved, blocks = [], _blocks(T, block)
        for start, end in blocks:
            part = q[:, :, start:end].reshape(B * K, groups * (end - start), d)
            weights = torch.softmax(_scores(part, keys[:, :end], bias[..., start:end, :end], groups), dim=-1)
            mixed = torch.bmm(weights, values[:, :end])
            out[:, start:end] = mixed.view(B, H, end - start, d).transpose(1, 2)
            saved += [part, weights]
        ctx.save_for_backward(keys, values, *saved)
        ctx.sizes = (B, H, K, T, d, blocks)
        return out.view(B, T, H * d)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        keys, values, *saved = ctx.saved_tensors
        B, H, K, T, d, blocks = ctx.sizes
        heads = grad.view(B, T, H, d).transpose(1, 2)
        grad_q = grad.new_empty(B, H, T, d)
        grad_k, grad_v = torch.empty_like(keys), torch.empty_like(values)
        # The last block sees all keys and writes, the ones before it add.
        for i, (start, end) in reversed(list(enumerate(blocks))):
            part, weights = saved[2 * i], saved[2 * i + 1]
            g = heads[:, :, start:end].reshape(part.shape)
            grad_scores = torch.ops.aten._softmax_backward_data(
                torch.bmm(g, values[:, :end].transpose(1, 2)), weights, -1, weights.dtype)
            grad_q[:, :, start:end] = torch.bmm(grad_scores, keys[:, :end]).view(B, H, end - start, d)
            for total, left, right in ((grad_k, grad_scores, part), (grad_v, weights, g)):
                if end == T:
                    torch.bmm(left.transpose(1, 2), right, out=total)
                else:
                    total[:, :end] += torch.bmm(left.transpose(1, 2), right)
        return grad_q, grad_k.view(B, K, T, d), grad_v.view(B, K, T, d), None, None


def _blocks(T: int, block: int) -> list[tuple[int, int]]:
    """0 .. T in equal parts of at most `block`."""
    parts = -(-T // block)
    return [(T * i // parts, T * (i + 1) // parts) for i in range(parts)]


def attend_causal(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, block: int = 64) -> Tensor:
    """Attention over whole sequences, q [B, H, T, d], k and v [B, K, T, d], bias from `causal_bias` -> [B, T, H * d].

    Queries go in blocks that look only at the keys before their end: less of the square is computed and thrown away.
    """
    if q.device.type != "cpu":
        return attend_fused(q, k, v, bias)
    return _AttendCausal.apply(q, k, v, bias, block)  # type: ignore[no-untyped-call, no-any-return]


class _AttendRows(torch.autograd.Function):
    """By compiled kernels: they turn qkv in place, and compute the weights again on the way back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turn: Tensor | None, bits: Tensor, heads: int, kv_heads: int) -> Tensor:
        if turn is not None:
            kernels.rotate_(qkv, turn, heads, kv_heads)
        mixed, normaliser = kernels.attend_causal(qkv, bits, heads, kv_heads)
        ctx.save_for_backward(qkv, turn, bits, mixed, normaliser)
        ctx.heads = (heads, kv_heads)
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, turn, bits, mixed, normaliser = ctx.saved_tensors
        return (kernels.attend_causal_backward(qkv, bits, turn, mixed, normaliser, grad.contiguous(), *ctx.heads), *[None] * 4)


def attend_rows(qkv: Tensor, turn: Tensor | None, mask: Tensor | None, heads: int, kv_heads: int) -> Tensor:
    """Attention over whole sequences, qkv [B, T, (H + 2 K) * d], mask from `causal_mask` -> [B, T, H * d].

    turn: as in `split_heads`. qkv belongs to this function from here on: it may write to it.
    """
    if mask is not None and mask.dtype == torch.int16:
        out: Tensor = apply(_AttendRows, qkv.contiguous(), None if turn is None else turn.contiguous(), mask, heads, kv_heads)
        return out
    return attend_causal(*split_heads(qkv, turn, heads, kv_heads), mask)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """q [B, H, T, d], k and v [B, K, U, d], additive bias [T, U] or [B, T, U] -> [B, T, H * d]. For decoding: no gradient.

    Query heads that share a key head are laid side by side along T.
    """
    if q.device.type != "cpu":
        return attend_fused(q, k, v, bias)
    B, H, T, d = q.shape
    K, U, groups = k.shape[1], k.shape[2], H // k.shape[1]
    scores = _scores(q.reshape(B * K, groups * T, d), k.reshape(B * K, U, d), bias, groups)
    mixed = torch.bmm(torch.softmax(scores, dim=-1), v.reshape(B * K, U, d))
    return mixed.view(B, H, T, d).transpose(1, 2).reshape(B, T, H * d)


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`attend` by torch's own kernel, with gradient; bias None: causal. Heads that share a key head lie along T here, too."""
    B, H, T, d = q.shape
    K, groups = k.shape[1], H // k.shape[1]
    with sdpa_kernel(_KERNELS):
        if bias is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=groups > 1)
        else:
            bias = bias.repeat(groups, 1) if bias.dim() == 2 else bias.repeat(1, groups, 1)[:, None]
            mixed = F.scaled_dot_product_attention(q.reshape(B, K, groups * T, d), k, v, attn_mask=bias, scale=1.0)
    return mixed.reshape(B, H, T, d).transpose(1, 2).reshape(B, T, H * d)
