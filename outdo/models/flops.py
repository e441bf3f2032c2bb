"""Analytic FLOPs of the decoder: a multiply and an add are two. Norms, rotations, softmax and SiLU are not counted.

Checked against torch.utils.flop_counter.FlopCounterMode in tests/models/test_flops.py.
"""

from __future__ import annotations

from outdo.models.decoder import DecoderConfig


def layer_weights(c: DecoderConfig) -> int:
    """Weights of all layers' matrices: each costs two FLOPs per token that passes."""
    attention = (2 * c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim * c.hidden_size
    return c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size)


def tail_weights(c: DecoderConfig) -> int:
    """Weights of the last layer behind its attention: they meet only positions whose logits are wanted."""
    return c.hidden_size * (c.num_attention_heads * c.head_dim + 3 * c.intermediate_size)


def forward_flops(c: DecoderConfig, tokens: int, attended: int, heads: int) -> float:
    """One forward pass.

    tokens: how many pass the layers. attended: keys looked at, summed over those tokens (causal: position + 1 each).
    heads: at how many of them logits are wanted.
    """
    tail = tail_weights(c)
    linear = 2.0 * ((layer_weights(c) - tail) * tokens + tail * heads)
    attention = 4.0 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * attended
    return linear + attention + 2.0 * c.hidden_size * c.vocab_size * heads


def update_flops(c: DecoderConfig, tokens: int, attended: int, heads: int) -> float:
    """Forward and backward: the backward pass costs twice the forward."""
    return 3.0 * forward_flops(c, tokens, attended, heads)


def causal_attended(length: int, start: int = 0) -> int:
    """Keys looked at by the tokens start .. length-1 of one causal sequence."""
    return (length * (length + 1) - start * (start + 1)) // 2
