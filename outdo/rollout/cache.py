"""The KV cache: one slot per running sequence, active slots always in front, capacity grown in strides.

Batched products run several times faster over matrices that lie side by side in memory than over slices of longer ones.
So the cache is only a little longer than what it holds, and those look at the whole of it, masked behind each row's end;
growing copies it, once every few turns. (Compiled kernels look at what each row holds. On a GPU slices cost nothing: there
only as much is looked at as any row holds, and the step of one token is a graph, see `rollout.graphs`.)

Shapes: R rows (active slots), K key-value heads, C new tokens per row, U capacity in tokens, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from outdo import kernels
from outdo.models.attention import attend, split_heads
from outdo.models.base import LanguageModel
from outdo.models.decoder import Decoder, DecoderConfig, Packed, PackedLayer
from outdo.models.fallback import Fallback
from outdo.rollout import fallback_cache
from outdo.rollout.fallback_cache import KeyValues, Rereading
from outdo.rollout.graphs import Graphs, round_seen
from outdo.rollout.graphs import round_rows as round_graph_rows
from outdo.system.machine import round_rows

_STRIDE_TOKENS = 16
_FEW_TOKENS = 16  # a row: more than these are prefilled by matrix products


@dataclass
class KVCache:
    """keys[l] and values[l] are [slots + some spare ones, K, U, d].

    Never NaN behind a row's end, so that a weight of 0 hides what is there.
    """

    keys: list[Tensor]
    values: list[Tensor]
    graphs: Graphs | None = None  # None: every step is launched kernel by kernel

    @staticmethod
    def allocate(c: DecoderConfig, slots: int, tokens: int, dtype: torch.dtype, device: torch.device) -> KVCache:
        shape = (round_rows(slots) + 1, c.num_key_value_heads, _round_up(tokens), c.head_dim)
        keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(c.num_hidden_layers)]
        return KVCache(keys, [torch.zeros_like(k) for k in keys])

    @property
    def spare(self) -> int:
        """A slot that no sequence ever owns."""
        return self.keys[0].shape[0] - 1

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def reserve(self, tokens: int, active: int) -> None:
        """Make room for `tokens` per slot, keeping what the first `active` slots hold; layer by layer, to spare memory."""
        if tokens <= self.capacity:
            return
        old = self.capacity
        more = _round_up(max(tokens, old + old // 4))
        for stores in (self.keys, self.values):
            for i, store in enumerate(stores):
                grown = store.new_empty(*store.shape[:2], more, store.shape[3])
                grown[:active, :, :old], grown[:active, :, old:], grown[active:] = store[:active], 0, 0
                stores[i] = grown
        if self.graphs is not None:
            self.graphs.clear()

    def copy(self, source: Tensor, target: Tensor, tokens: int) -> None:
        """Copy the first `tokens` entries of the source slots [n] into the target slots [n]."""
        for store in (*self.keys, *self.values):
            store[target, :, :tokens] = store[source, :, :tokens]


def _round_up(tokens: int) -> int:
    return -(-tokens // _STRIDE_TOKENS) * _STRIDE_TOKENS


AnyCache = KVCache | KeyValues | Rereading


def allocate(model: LanguageModel, slots: int, tokens: int, dtype: torch.dtype) -> AnyCache:
    """An empty cache for so many sequences of at first at most so many tokens."""
    if isinstance(model, Fallback):
        return fallback_cache.allocate(model, slots)
    assert isinstance(model, Decoder)
    return KVCache.allocate(model.config, slots, tokens, dtype, model.device)


def forward_step(model: LanguageModel, packed: Any, cache: AnyCache, tokens_RC: Tensor, starts_R: Tensor, lasts_R: Tensor,
                 slots_R: Tensor | None = None) -> Tensor:
    """Add up to C tokens to each row and return the hidden states [R, D] of each row's last one, at column lasts_R.

    starts_R: how many tokens each row's slot holds already, on the CPU like tokens_RC and lasts_R, wherever the model is.
    Row r uses slot r, or slots_R[r] if given. A row with fewer
    than C real tokens is padded on the right: what the padding leaves in the cache lies behind the row's end, is
    invisible to its own tokens and overwritten by the next ones.
    """
    R, device = len(tokens_RC), model.device
    if not isinstance(cache, KVCache):
        slots_R = torch.arange(R) if slots_R is None else slots_R
        return cache.step(packed, *(x.to(device) for x in (tokens_RC, starts_R, lasts_R, slots_R)))
    assert isinstance(model, Decoder)
    if cache.graphs is not None and slots_R is None and tokens_RC.shape[1] == 1:
        return _replay(model, packed, cache, cache.graphs, tokens_RC, starts_R)[:R]
    padding = round_rows(R) - R
    if padding:  # Rows that nobody reads: they write to slots behind the active ones, or to the spare slot.
        tokens_RC = F.pad(tokens_RC, (0, 0, 0, padding))
        starts_R = torch.cat([starts_R, starts_R[:1].expand(padding)])
        lasts_R = F.pad(lasts_R, (0, padding))
        slots_R = None if slots_R is None else F.pad(slots_R, (0, padding), value=cache.spare)
    return _hidden(model, packed, cache, tokens_RC, starts_R, lasts_R, slots_R)[:R]


def _hidden(model: Decoder, packed: Packed, cache: KVCache, tokens_RC: Tensor, starts_R: Tensor, lasts_R: Tensor,
            slots_R: Tensor | None) -> Tensor:
    """Make room in the cache and go through the layers."""
    R, C = tokens_RC.shape
    first = int(starts_R[0]) if bool((starts_R == starts_R[0]).all()) else None
    ends = (int(starts_R.max()) if first is None else first) + C
    cache.reserve(ends, R if slots_R is None else cache.spare)
    device = model.device
    seen = cache.capacity if device.type == "cpu" else min(round_seen(ends), cache.capacity)
    slots_R = None if slots_R is None else slots_R.to(device)
    return layers(model, packed, cache, tokens_RC.to(device), starts_R.to(device), lasts_R.to(device), slots_R, first, seen)


def _replay(model: Decoder, packed: Packed, cache: KVCache, graphs: Graphs, tokens_R1: Tensor, starts_R: Tensor) -> Tensor:
    """One token for each of the first R slots, by a recorded graph -> hidden states [R and more, D]."""
    R = len(starts_R)
    ends = int(starts_R.max()) + 1
    cache.reserve(ends, R)
    seen, rows = min(round_seen(ends), cache.capacity), min(round_graph_rows(R), cache.spare)
    inputs = F.pad(torch.stack([tokens_R1[:, 0], starts_R]), (0, rows - R))  # the others write to slots that nobody owns

    def step(tokens_R1: Tensor, starts_R: Tensor) -> Tensor:
        return layers(model, packed, cache, tokens_R1, starts_R, torch.zeros_like(starts_R), None, None, seen)

    return graphs.run(step, inputs, seen, model.device)


def layers(model: Decoder, packed: Packed, cache: KVCache, tokens_RC: Tensor, starts_R: Tensor, lasts_R: Tensor,
           slots_R: Tensor | None, first: int | None, seen: int) -> Tensor:
    """The layers over C new tokens per row -> normalised hidden states at columns lasts_R, [R, D]. Never waits for a GPU.

    first: where all rows start; one mask then serves them all. None: they start at different places. seen: how many of the
    cache's tokens are looked at, those behind a row's end masked.
    """
    R, C = tokens_RC.shape
    few = C <= _FEW_TOKENS and kernels.attends(cache.keys[0])
    mix = (_row_by_row(model, cache, starts_R, slots_R) if few
           else _by_products(model, packed, cache, starts_R, C, slots_R, first, seen))
    x, normed = model.embed(packed, tokens_RC)
    for i, layer in enumerate(packed.layers):
        mixed = mix(i, layer, model.qkv(layer, normed))
        if i == len(packed.layers) - 1:  # nobody looks at the other columns
            rows_R = torch.arange(R, device=tokens_RC.device)
            x, mixed = x[rows_R, lasts_R], mixed[rows_R, lasts_R]
        x, normed = model.after_attention(layer, x, mixed)
    return normed


Mix = Callable[[int, PackedLayer, Tensor], Tensor]  # layer i and its q, k and v [R, C, (H + 2K) * d] -> [R, C, H * d]


def _row_by_row(model: Decoder, cache: KVCache, starts_R: Tensor, slots_R: Tensor | None) -> Mix:
    """Attention by a compiled kernel that reads what each row holds and no more."""

    def mix(i: int, layer: PackedLayer, qkv: Tensor) -> Tensor:
        return kernels.attend_cached(qkv, model.turn if layer.rotary else None, starts_R, slots_R, cache.keys[i], cache.values[i],
                                     model.config.num_attention_heads, layer.window)

    return mix


def _by_products(model: Decoder, packed: Packed, cache: KVCache, starts_R: Tensor, C: int, slots_R: Tensor | None,
                 first: int | None, seen: int) -> Mix:
    """Attention by matrix products over the same `seen` keys for all rows: its slow twin, and for many tokens a row faster."""
    R, device, c = len(starts_R), starts_R.device, model.config
    aligned = first is not None
    at_RC = starts_R[:, None] + torch.arange(C, device=device)
    places = at_RC.clamp(max=len(model.turn) - 1)  # only padding lies beyond
    turn = model.turn[places[0] if aligned else places]
    where = at_RC[0] if aligned else at_RC
    biases = {w: _bias(where, seen, packed.embed.dtype, w) for w in {layer.window for layer in packed.layers}}
    rows = torch.arange(R, device=device) if slots_R is None else slots_R

    def mix(i: int, layer: PackedLayer, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, turn if layer.rotary else None, c.num_attention_heads, c.num_key_value_heads)
        keys, values = cache.keys[i], cache.values[i]
        if first is not None and slots_R is None:
            keys[:R, :, first : first + C], values[:R, :, first : first + C] = k, v
        else:
            keys[rows[:, None], :, at_RC] = k.transpose(1, 2)
            values[rows[:, None], :, at_RC] = v.transpose(1, 2)
        which = slice(R) if slots_R is None else slots_R
        return attend(q, keys[which, :, :seen], values[which, :, :seen], biases[layer.window])

    return mix


def _bias(at_RC: Tensor, U: int, dtype: torch.dtype, window: int | None) -> Tensor:
    """[R, C, U] or [C, U]: 0 where key u is at or before the token's position and in its window, -inf elsewhere."""
    u = torch.arange(U, device=at_RC.device)
    hidden = u > at_RC[..., None]
    if window is not None:
        hidden |= u <= at_RC[..., None] - window
    return torch.zeros(hidden.shape, dtype=dtype, device=at_RC.device).masked_fill_(hidden, float("-inf"))
