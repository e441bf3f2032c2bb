"""What generation keeps beside a `Fallback`: keys and values in slots, as in `rollout.cache`, behind transformers' own interface.

Models whose attention goes by the mask that it is given (nearly all of them) keep a cache; the others (recurrent ones, ALiBi)
read every row from its beginning for each new token. Which of the two is tried out once per model, not looked up.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from outdo.models.fallback import Fallback, Packed, close

_STRIDE_TOKENS = 64


class Rereading:
    """The tokens themselves: every step computes whole rows."""

    def __init__(self, model: Fallback, slots: int) -> None:
        self.model = model
        self.tokens = torch.zeros((slots, 0), dtype=torch.int64, device=model.device)

    def copy(self, source: Tensor, target: Tensor, tokens: int) -> None:
        """Copy the first `tokens` entries of the source slots [n] into the target slots [n]."""
        self.tokens[target, :tokens] = self.tokens[source, :tokens]

    def step(self, packed: Packed, tokens_RC: Tensor, starts_R: Tensor, lasts_R: Tensor, slots_R: Tensor) -> Tensor:
        """As `rollout.cache.forward_step`: add up to C tokens to each slot -> hidden states [R, D] at columns lasts_R."""
        at_RC = starts_R[:, None] + torch.arange(tokens_RC.shape[1], device=tokens_RC.device)
        self._reserve(int(at_RC.max()) + 1)
        self.tokens[slots_R[:, None], at_RC] = tokens_RC
        ends = starts_R + lasts_R
        length = int(ends.max()) + 1
        wanted = torch.arange(len(ends), device=ends.device) * length + ends
        return self.model.hidden(packed, self.tokens[slots_R, :length], wanted_N=wanted)

    def _reserve(self, tokens: int) -> None:
        self.tokens = _grown(self.tokens[:, None, :, None], tokens)[:, 0, :, 0]


class KeyValues:
    """Keys and values of every layer, [slots, heads, U, d], made when a layer first has some."""

    def __init__(self, model: Fallback, slots: int) -> None:
        self.model, self.slots = model, slots
        layer: Any = partial(_Layer, self)
        self.cache = Cache(layer_class_to_replicate=layer)
        self.rows, self.at_RC = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.int64)
        self.seen_tokens = 0  # how many of the U are looked at in this step

    def copy(self, source: Tensor, target: Tensor, tokens: int) -> None:
        """Copy the first `tokens` entries of the source slots [n] into the target slots [n]."""
        for layer in self.cache.layers:
            assert isinstance(layer, _Layer) and layer.keys is not None and layer.values is not None
            for store in (layer.keys, layer.values):
                store[target, :, :tokens] = store[source, :, :tokens]

    def step(self, packed: Packed, tokens_RC: Tensor, starts_R: Tensor, lasts_R: Tensor, slots_R: Tensor) -> Tensor:
        """As `rollout.cache.forward_step`: add up to C tokens to each slot -> hidden states [R, D] at columns lasts_R."""
        self.rows, self.at_RC = slots_R, starts_R[:, None] + torch.arange(tokens_RC.shape[1], device=tokens_RC.device)
        self.seen_tokens = int(self.at_RC.max()) + 1
        places = self.at_RC.clamp(max=self.model.config.max_position_embeddings - 1)  # only padding lies beyond
        hidden = self.model.layers(packed, input_ids=tokens_RC, position_ids=places, past_key_values=self.cache, use_cache=True,
                                   attention_mask=self._masks(packed.head.dtype))
        return hidden[torch.arange(len(hidden), device=hidden.device), lasts_R]

    def _masks(self, dtype: torch.dtype) -> Any:
        """[R, 1, C, U], 0 where a token looks and -inf elsewhere; one for each kind of layer where there are several."""
        c = self.model.module.config.get_text_config()
        window, kinds = getattr(c, "sliding_window", None), sorted(set(getattr(c, "layer_types", None) or ()))
        if len(kinds) > 1:
            return {kind: self._mask(dtype, window if kind == "sliding_attention" else None) for kind in kinds}
        return self._mask(dtype, None if kinds == ["full_attention"] else window)

    def _mask(self, dtype: torch.dtype, window: int | None) -> Tensor:
        u, at = torch.arange(self.seen_tokens, device=self.at_RC.device), self.at_RC[..., None]
        hidden = u > at if window is None else (u > at) | (u <= at - window)
        return torch.zeros(hidden.shape, dtype=dtype, device=u.device).masked_fill_(hidden, float("-inf"))[:, None]


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer: new entries go to the rows' slots and places, and the whole rows come back."""

    def __init__(self, owner: KeyValues, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (s.new_zeros(self.owner.slots, s.shape[1], 0, s.shape[3]) for s in (key_states, value_states))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        o = self.owner
        self.keys, self.values = _grown(self.keys, o.seen_tokens), _grown(self.values, o.seen_tokens)
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            store[o.rows[:, None], :, o.at_RC] = new.transpose(1, 2)
        return self.keys[o.rows, :, : o.seen_tokens], self.values[o.rows, :, : o.seen_tokens]

    def get_seq_length(self) -> int:
        return self.owner.seen_tokens - self.owner.at_RC.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.seen_tokens, 0

    def get_max_length(self) -> int:
        return -1


def _grown(store: Tensor, tokens: int) -> Tensor:
    """store [slots, K, U, d] with room for `tokens`, what it held kept and zeros behind."""
    if tokens <= store.shape[2]:
        return store
    room = -(-max(tokens, store.shape[2] * 5 // 4) // _STRIDE_TOKENS) * _STRIDE_TOKENS
    out = store.new_zeros(*store.shape[:2], room, store.shape[3])
    out[:, :, : store.shape[2]] = store
    return out


def allocate(model: Fallback, slots: int) -> KeyValues | Rereading:
    """An empty cache of the kind that the model can do with."""
    if model.keeps_cache is None:
        model.keeps_cache = _agrees(model)
    return KeyValues(model, slots) if model.keeps_cache else Rereading(model, slots)


@torch.no_grad()
def _agrees(model: Fallback) -> bool:
    """Whether rows that grow unevenly in a cache come to the hidden states of whole rows."""
    c = model.module.config.get_text_config()
    if not set(getattr(c, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
        return False
    packed, cache = model.pack(torch.float32), KeyValues(model, 4)
    tokens = (torch.arange(18, device=model.device).view(2, 9) * 7 + 3) % model.config.vocab_size
    slots, uneven = (torch.tensor(x, device=model.device) for x in ((3, 1), (4, 2)))
    try:
        cache.step(packed, tokens[:, :4], slots * 0, uneven - 1, slots)
        got = cache.step(packed, torch.stack([tokens[0, 4:7], tokens[1, 2:5]]), uneven, 4 - uneven, slots)
        last = cache.step(packed, tokens[:, 5:6], slots * 0 + 5, slots * 0, slots)
    except Exception:
        return False
    whole = model.hidden(packed, tokens)
    return close(got, whole[[0, 1], [4, 4]]) and close(last, whole[[0, 1], [5, 5]])
