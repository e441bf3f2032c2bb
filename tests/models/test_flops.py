"""Analytic FLOPs against what torch counts.

Run: .venv/bin/python -m pytest tests/models/test_flops.py   (about 3 s on one core)

The linear part agrees exactly. Attention is booked as causal: position t looks at t + 1 keys. `attend_causal` computes
whole blocks: with one block the dense T * T, with several the queries of each times the keys before its end, always
between the booked number and the dense one. Element-wise work is counted by neither.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import config, decoder

from outdo.models import attention as attention_module
from outdo.models.attention import attend_causal, causal_bias
from outdo.models.decoder import Decoder, DecoderConfig
from outdo.models.flops import causal_attended, forward_flops, update_flops

BLOCK = inspect.signature(attend_causal).parameters["block"].default
SIZES = {
    "tied": config(),
    "untied": config(tie_word_embeddings=False, num_key_value_heads=4),
    "odd": config(vocab_size=31, hidden_size=30, intermediate_size=37, num_attention_heads=3, num_key_value_heads=1,
                  num_hidden_layers=3, max_position_embeddings=4 * BLOCK),
}  # fmt: skip


@pytest.fixture(params=SIZES, ids=list(SIZES))
def model(request: pytest.FixtureRequest) -> Decoder:
    return decoder(SIZES[request.param])


def counted(work: Callable[[], object]) -> dict[str, int]:
    """FLOPs by kind of product: mm and addmm are linear layers, bmm and baddbmm attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    by_name = {str(op).split(".")[-1]: n for op, n in counter.get_flop_counts()["Global"].items()}
    linear = sum(n for op, n in by_name.items() if op in ("mm", "addmm"))
    attention = sum(n for op, n in by_name.items() if op in ("bmm", "baddbmm"))
    assert linear + attention == counter.get_total_flops(), f"unknown products in {by_name}"
    return {"linear": linear, "attention": attention}


def forward(model: Decoder, B: int, T: int) -> torch.Tensor:
    ids = torch.zeros(B, T, dtype=torch.int64)
    packed = model.pack(torch.float32)
    return model.logits(packed, model.hidden(packed, ids))


def parts(c: DecoderConfig, B: int, T: int, heads: int) -> tuple[float, float]:
    """The analytic count, linear and attention, the latter causal."""
    total = forward_flops(c, B * T, B * causal_attended(T), heads)
    linear = forward_flops(c, B * T, 0, heads)
    return linear, total - linear


@pytest.mark.parametrize(("B", "T"), [(1, 1), (3, 17), (2, min(BLOCK, 64))])
def test_forward_with_one_block(model: Decoder, B: int, T: int) -> None:
    """Linear part exact; attention is the dense square, 2 T / (T + 1) times the causal count."""
    linear, causal = parts(model.config, B, T, heads=B * T)
    got = counted(lambda: forward(model, B, T))
    assert got["linear"] == linear
    assert got["attention"] * (T + 1) == causal * 2 * T


@pytest.mark.parametrize("T", [BLOCK + 1, 3 * BLOCK + 8])
def test_forward_in_blocks_lies_between_causal_and_dense(T: int) -> None:
    model = decoder(SIZES["odd"])
    c = model.config
    linear, causal = parts(c, 2, T, heads=2 * T)
    got = counted(lambda: forward(model, 2, T))
    assert got["linear"] == linear
    assert causal < got["attention"] < causal * 2 * T / (T + 1)
    blocks = -(-T // BLOCK)
    ends = [T * (i + 1) // blocks for i in range(blocks)]
    pairs = sum((e - s) * e for s, e in itertools.pairwise([0, *ends]))
    assert got["attention"] == 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * 2 * pairs


def test_smaller_blocks_come_nearer_to_the_causal_count() -> None:
    q = torch.zeros(1, 2, 64, 4)
    bias = causal_bias(torch.zeros(1, 64), None, q.dtype)
    costs = [counted(lambda b=b: attend_causal(q, q, q, bias, b))["attention"] for b in (64, 16, 4, 1)]  # type: ignore[misc]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 4
    assert costs[-1] == 4 * 2 * 4 * causal_attended(64), "one query per block is exactly causal"


def test_logits_and_the_last_layers_tail_are_charged_only_where_asked() -> None:
    model, wanted = decoder(), torch.tensor([3, 7, 9])
    c = model.config
    packed = model.pack(torch.float32)
    ids = torch.zeros(1, 10, dtype=torch.int64)
    got = counted(lambda: model.logits(packed, model.hidden(packed, ids, wanted_N=wanted)))
    assert got["linear"] == forward_flops(c, 10, 0, heads=3)
    everywhere = counted(lambda: model.logits(packed, model.hidden(packed, ids)))
    assert everywhere["linear"] == forward_flops(c, 10, 0, heads=10) > got["linear"]
    assert got["attention"] == everywhere["attention"]


def test_update_is_three_times_forward(model: Decoder) -> None:
    """On a real backward pass: every product of the forward pass comes back twice, once per operand.

    The embedding lookup has no product in either direction, and the first layer's input gradient is due because the
    embedding trains; so nothing is missing and nothing is left over, in the linear part and in attention alike.
    """
    B, T = 2, 30
    linear, causal = parts(model.config, B, T, heads=B * T)
    assert update_flops(model.config, B * T, B * causal_attended(T), B * T) == 3 * (linear + causal)
    got = counted(lambda: forward(model, B, T).logsumexp(-1).sum().backward())
    assert got["linear"] == 3 * linear
    assert got["attention"] * (T + 1) == 3 * causal * 2 * T


def test_layer_weights_counts_the_matrices(model: Decoder) -> None:
    matrices = [p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2]
    assert model.config.layer_weights == sum(matrices)


@pytest.mark.parametrize(("length", "start"), [(0, 0), (1, 0), (9, 0), (9, 4), (9, 9)])
def test_causal_attended_counts_keys(length: int, start: int) -> None:
    assert causal_attended(length, start) == sum(t + 1 for t in range(start, length))


def test_the_counter_sees_a_change_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above is not vacuous: an extra product in attention shows up."""
    honest = counted(lambda: forward(decoder(), 1, 8))

    def wasteful(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        torch.bmm(q[0], q[0].transpose(1, 2))
        return attend_causal(q, k, v, bias)

    monkeypatch.setattr(attention_module, "attend_causal", wasteful)
    assert counted(lambda: forward(decoder(), 1, 8))["attention"] > honest["attention"]
