"""One decoder for the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied or untied head.

The family is Llama, SmolLM2 and 3, Mistral, Qwen2, Qwen2.5 and Qwen3: biases, norms on queries and keys, sliding windows
and layers without positions are options of the config (`models.families` reads them from a Hugging Face config).
Parameter names are those of the families' own models in transformers, so weights go in and out unchanged. Before they
compute they are packed: q, k and v become one matrix, norm weights and the attention scale are multiplied in, rotary pairs
laid side by side, everything cast to the compute dtype. Packing is differentiable: training packs in every micro-batch, the
sampler once per policy version, and both then run the same code.

Shapes: B rows, T tokens, H query heads, K key-value heads, d head size, D model width, V vocabulary, U cached tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outdo import kernels
from outdo.models import block
from outdo.models.adapt import matrix
from outdo.models.attention import attend_rows, causal_mask, skips_hidden
from outdo.models.base import LanguageModel, Prompts
from outdo.models.head import token_logprobs
from outdo.models.ops import Matrix, add_normalize, linear, prepack, rms_normalize, swiglu_linear
from outdo.models.packing import Part, pair_up, stack

_LARGE_BYTES = 1 << 23  # of compute weights: beyond this oneDNN's own order pays, for reading them takes most of a decoding step
PADDING = 64  # positions behind the longest sequence that right padding may take


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and options of a decoder; field names follow transformers' LlamaConfig where it has them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    head_size: int | None = None  # None: hidden_size / num_attention_heads
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head of q and k (Qwen3)
    windows: tuple[int | None, ...] = ()  # per layer: how many keys a query sees, itself included; None: all. (): all, everywhere
    rotary: tuple[bool, ...] = ()  # per layer: whether it knows positions (SmolLM3). (): every layer does
    frequencies: tuple[float, ...] | None = None  # radians per position of each pair, where scaled; None: from rope_theta
    rope_magnitude: float = 1.0  # what rotated q and k are multiplied with (YaRN)

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden_size // self.num_attention_heads

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices."""
        attention = (2 * self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim * self.hidden_size
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def tail_weights(self) -> int:
        """Weights of the last layer behind its attention."""
        return self.hidden_size * (self.num_attention_heads * self.head_dim + 3 * self.intermediate_size)

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


class Linear(NamedTuple):
    """A matrix and, in some families, a bias: what `ops.linear` takes behind its input."""

    weight: Matrix
    bias: Tensor | None

    def prepacked(self) -> Linear:
        assert isinstance(self.weight, Tensor)
        return Linear(prepack(self.weight), self.bias)


@dataclass(frozen=True)
class PackedLayer:
    """One layer's compute weights."""

    qkv: Linear  # [(H + 2K) * d, D] input norm and query scale multiplied in
    head_norm: Tensor | None  # [H + K, d] weights of the norms on q and k, the query scale multiplied in
    o: Linear  # [D, H * d]
    gate_up: Linear  # [2 F, D] post-attention norm multiplied in
    down: Linear  # [D, F]
    window: int | None
    rotary: bool


@dataclass(frozen=True)
class Packed:
    """All compute weights of one policy version, in one dtype."""

    embed: Tensor  # [V, D]
    layers: tuple[PackedLayer, ...]
    head: Matrix  # [V, D] final norm multiplied in

    def tensors(self) -> Iterator[Tensor]:
        """All of them that are not in panels, always in one order."""
        layers = (x for p in self.layers for x in (*p.qkv, p.head_norm, *p.o, *p.gate_up, *p.down))
        yield from (x for x in (self.embed, self.head, *layers) if isinstance(x, Tensor))


class Weight(nn.Module):
    """A named weight matrix or vector, perhaps with a bias; it has no forward, the packed copy computes."""

    def __init__(self, *shape: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None


class Attention(nn.Module):
    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.q_proj = Weight(c.num_attention_heads * c.head_dim, c.hidden_size, bias=c.qkv_bias)
        self.k_proj = Weight(c.num_key_value_heads * c.head_dim, c.hidden_size, bias=c.qkv_bias)
        self.v_proj = Weight(c.num_key_value_heads * c.head_dim, c.hidden_size, bias=c.qkv_bias)
        self.o_proj = Weight(c.hidden_size, c.num_attention_heads * c.head_dim, bias=c.o_bias)
        if c.qk_norm:
            self.q_norm, self.k_norm = Weight(c.head_dim), Weight(c.head_dim)


class MLP(nn.Module):
    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Weight(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)
        self.up_proj = Weight(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)
        self.down_proj = Weight(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)


class Layer(nn.Module):
    """The parameters of one pre-norm block."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.input_layernorm = Weight(c.hidden_size)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Weight(c.hidden_size)
        self.mlp = MLP(c)

    def pack(self, c: DecoderConfig, dtype: torch.dtype, number: int) -> PackedLayer:
        a, m, d, scale = self.self_attn, self.mlp, c.head_dim, c.head_dim**-0.5
        head_norm = None
        if c.qk_norm:  # a norm would undo a scale in front of it
            head_norm = torch.cat([(pair_up(a.q_norm.weight, d) * scale).expand(c.num_attention_heads, d),
                                   pair_up(a.k_norm.weight, d).expand(c.num_key_value_heads, d)]).to(dtype)
            scale = 1.0

        def linear(norm: Tensor | None, *parts: Weight, order: tuple[tuple[int, float], ...] = ((0, 1.0),) * 2) -> Linear:
            """The parts' rows one below the other."""
            rows = tuple(Part(matrix(x), *o) for x, o in zip(parts, order, strict=False))
            biases = tuple(Part(x.bias[:, None], *o) for x, o in zip(parts, order, strict=False) if x.bias is not None)
            return Linear(stack(rows, norm, dtype), stack(biases, None, dtype).squeeze(1) if biases else None)

        qkv = linear(self.input_layernorm.weight, a.q_proj, a.k_proj, a.v_proj, order=((d, scale), (d, 1.0), (0, 1.0)))
        gate_up = linear(self.post_attention_layernorm.weight, m.gate_proj, m.up_proj)
        return PackedLayer(qkv, head_norm, linear(None, a.o_proj), gate_up, linear(None, m.down_proj), c.window(number),
                           c.rotary[number] if c.rotary else True)


class Backbone(nn.Module):
    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = Weight(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = Weight(c.hidden_size)


class Decoder(LanguageModel):
    """The model. `pack` then `hidden` and `logits` to compute; `rollout.cache` holds what generation needs beside it."""

    turn: Tensor
    shares_prompts = True

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config: DecoderConfig = config
        self.model = Backbone(config)
        if not config.tie_word_embeddings:
            self.lm_head = Weight(config.vocab_size, config.hidden_size)
        self.register_buffer("turn", rotary_table(config), persistent=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal with std 0.02, the two projections into the residual stream scaled by 1/sqrt(2 L) as in GPT-2."""
        residual = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
                continue
            into_residual = "o_proj" in name or "down_proj" in name
            nn.init.normal_(parameter, std=0.02 * (residual if into_residual else 1.0), generator=generator)

    def long_rows(self, dtype: torch.dtype) -> bool:
        return skips_hidden(self.device, dtype, self.config.head_dim)

    def pack(self, dtype: torch.dtype) -> Packed:
        """The compute weights, differentiable with respect to the parameters."""
        c, m = self.config, self.model
        embed = m.embed_tokens.weight
        head = embed if c.tie_word_embeddings else self.lm_head.weight
        layers = tuple(layer.pack(c, dtype, i) for i, layer in enumerate(m.layers))  # type: ignore[operator]
        return Packed(stack((Part(embed),), None, dtype), layers, stack((Part(head),), m.norm.weight, dtype))

    def pack_to_sample(self, dtype: torch.dtype, into: Packed | None = None) -> Packed:
        """See `LanguageModel.pack_to_sample`: on a CPU large matrices lie in the order in which products read them."""
        packed, c = self.pack(dtype), self.config
        if self.device.type != "cpu":
            for old, new in zip(into.tensors(), packed.tensors(), strict=True) if into is not None else ():
                old.copy_(new)
            return into or packed
        small = dtype.itemsize * (c.layer_weights + c.vocab_size * c.hidden_size) < _LARGE_BYTES
        if small and not kernels.usable(self.device, dtype):
            return packed
        layers = tuple(replace(p, **{n: getattr(p, n).prepacked() for n in ("qkv", "o", "gate_up", "down")})
                       for p in packed.layers)
        assert isinstance(packed.head, Tensor)
        return Packed(packed.embed, layers, prepack(packed.head))

    def hidden(self, packed: Packed, tokens_BT: Tensor, segments_BT: Tensor | None = None,
               wanted_N: Tensor | None = None, prompts: Prompts | None = None) -> Tensor:
        """Whole sequences from position 0 -> normalised hidden states [B, T, D]. Causal; padding goes on the right.

        segments_BT: rows hold several sequences one after the other; a token sees only its own segment.
        wanted_N: flat positions b * T + t; the result is then [N, D], and what the last layer does behind its attention
        is done for those alone: nobody looks at the others.
        prompts: see `Prompts`.
        """
        tokens_BT, wanted_N = tokens_BT.to(self.device), None if wanted_N is None else wanted_N.to(self.device)
        turn = self.turn[: tokens_BT.shape[1]] if prompts is None else self.turn[prompts.positions_BT]
        windows = {layer.window for layer in packed.layers}
        masks = {w: causal_mask(tokens_BT, segments_BT, packed.embed.dtype, w, prompts, self.config.head_dim) for w in windows}
        x, normed = self.embed(packed, tokens_BT)
        for i, layer in enumerate(packed.layers):
            mixed = attend_rows(self.qkv(layer, normed), turn if layer.rotary else None, masks[layer.window],
                                self.config.num_attention_heads, self.config.num_key_value_heads)
            if wanted_N is not None and i == len(packed.layers) - 1:
                x, mixed = (m.flatten(0, 1).index_select(0, wanted_N) for m in (x, mixed))
            x, normed = self.after_attention(layer, x, mixed)
        return normed

    def embed(self, packed: Packed, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream x [B, T, D] before the first layer, and x normalised."""
        x = F.embedding(tokens_BT, packed.embed)
        return x, rms_normalize(x, self.config.rms_norm_eps)

    def qkv(self, layer: PackedLayer, normed: Tensor) -> Tensor:
        """Normalised x [B, T, D] -> scaled q, k and v of all heads side by side [B, T, (H + 2K) * d], not rotated yet."""
        c = self.config
        qkv = linear(normed, *layer.qkv)
        if layer.head_norm is None:
            return qkv
        heads, turned = qkv.view(*qkv.shape[:-1], -1, c.head_dim), len(layer.head_norm)
        scaled = rms_normalize(heads[..., :turned, :], c.rms_norm_eps) * layer.head_norm
        return torch.cat([scaled, heads[..., turned:, :]], dim=-2).flatten(-2)

    def after_attention(self, layer: PackedLayer, x: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """The rest of a layer: x [..., D] and the attention's result [..., H * d] -> x of the next layer, and it normalised."""
        c, eps = self.config, self.config.rms_norm_eps
        if not c.o_bias and not c.mlp_bias and block.fuses(x, mixed, layer.down.weight):
            return block.after_attention(x, mixed, layer.o.weight, layer.gate_up.weight, layer.down.weight, eps)
        x, normed = add_normalize(x, linear(mixed, *layer.o), eps)
        return add_normalize(x, swiglu_linear(linear(normed, *layer.gate_up), *layer.down), eps)

    def logits(self, packed: Packed, hidden: Tensor) -> Tensor:
        """hidden [..., D] from `hidden` -> float32 logits [..., V]. Call it only where a token trains or is sampled."""
        return linear(hidden, packed.head).float()

    def logprobs(self, packed: Packed, hidden: Tensor, targets_N: Tensor, temperature: float) -> Tensor:
        """See `LanguageModel.logprobs`."""
        assert isinstance(packed.head, Tensor), "what samples does not train"
        return token_logprobs(hidden, packed.head, targets_N, temperature)


def rotary_table(c: DecoderConfig) -> Tensor:
    """Unit complex numbers [max positions and room for padding, 1, d/2] (Su et al., 2104.09864)."""
    inverse = 1.0 / c.rope_theta ** (torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
    if c.frequencies is not None:
        inverse = torch.tensor(c.frequencies, dtype=torch.float64)
    angles = torch.outer(torch.arange(c.max_position_embeddings + PADDING, dtype=torch.float64), inverse)
    return torch.polar(torch.full_like(angles, c.rope_magnitude), angles).to(torch.complex64).unsqueeze(1)
