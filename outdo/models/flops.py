"""Analytic FLOPs of a model: a multiply and an add are two. Norms, rotations, softmax and SiLU are not counted.

Checked against torch.utils.flop_counter.FlopCounterMode in tests/models/test_flops.py.
"""

from __future__ import annotations

from outdo.models.base import Sizes


def forward_flops(c: Sizes, tokens: int, attended: int, heads: int, outputs: int | None = None) -> float:
    """One forward pass.

    tokens: how many pass the layers. attended: keys looked at, summed over those tokens (causal: position + 1 each).
    heads: at how many of them logits are wanted. outputs: numbers that the head gives there (default: one a token of the
    vocabulary).
    """
    linear = 2.0 * ((c.layer_weights - c.tail_weights) * tokens + c.tail_weights * heads)
    attention = 4.0 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * attended
    return linear + attention + 2.0 * c.hidden_size * (c.vocab_size if outputs is None else outputs) * heads


def update_flops(c: Sizes, tokens: int, attended: int, heads: int, outputs: int | None = None) -> float:
    """Forward and backward: the backward pass costs twice the forward."""
    return 3.0 * forward_flops(c, tokens, attended, heads, outputs)


def causal_attended(length: int, start: int = 0) -> int:
    """Keys looked at by the tokens start .. length-1 of one causal sequence."""
    return (length * (length + 1) - start * (start + 1)) // 2
