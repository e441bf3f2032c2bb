"""The engine's bill against an independent count from the finished trajectories, and against torch's counter.

Run: .venv/bin/python -m pytest tests/rollout/test_usage.py   (about 4 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from slow import generate
from torch.utils.flop_counter import FlopCounterMode
from toys import SMALL, decoder, engine, prompts

from outdo.models.flops import forward_flops
from outdo.rollout.engine import Sampling
from outdo.types import Prompt, Trajectory

LENGTHS = [3, 7, 7, 1, 12, 3, 7, 20]
CASES = {
    "one-shot": (Sampling(turn_tokens=9, max_tokens=40, stop_ids=(4, 11)), None),
    "turns": (Sampling(turn_tokens=4, max_tokens=40, stop_ids=(4, 11)), 6),
    "long observations": (Sampling(turn_tokens=1, max_tokens=50), 12),
}


def expected(asked: Sequence[Prompt], got: Sequence[Trajectory], group_size: int) -> dict[str, float]:
    """Counted from the records alone.

    Each prompt passes the model once per group. Of what follows, every token up to the last sampled one is fed (the
    last sampled token and the text behind it never are). Logits: one row per prompt for the group's first token, then
    one for every further sampled token.
    """
    first = {p.id: len(p.token_ids) for p in asked}
    observed = sum(first.values())
    attended = sum(n * (n + 1) // 2 for n in first.values())
    sampled_and_fed, heads = 0, len(asked)
    for t in got:
        start, last = first[t.prompt_id], int(np.flatnonzero(t.mask)[-1])
        observed += int((~t.mask[start:last]).sum())
        sampled_and_fed += int(t.mask[start:last].sum())
        attended += sum(at + 1 for at in range(start, last))
        heads += int(t.mask.sum()) - 1
    assert len(got) == group_size * len(asked)
    return {
        "prefill_tokens": observed,
        "decode_tokens": sum(int(t.mask.sum()) for t in got),
        "fed": observed + sampled_and_fed,
        "flops": forward_flops(SMALL, observed + sampled_and_fed, attended, heads),
        "linear_prefill": forward_flops(SMALL, observed, 0, 0),
        "linear": forward_flops(SMALL, observed + sampled_and_fed, 0, heads),
    }


@pytest.mark.parametrize("slots", [5, 64])
@pytest.mark.parametrize("group_size", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_usage(case: str, group_size: int, slots: int) -> None:
    sampling, longest = CASES[case]
    asked = prompts(LENGTHS)
    got, usage, _ = generate(engine(decoder(), slots=slots), asked, group_size, sampling, longest=longest)
    want = expected(asked, got, group_size)
    assert usage.prefill_tokens == want["prefill_tokens"]
    assert usage.decode_tokens == want["decode_tokens"]
    assert usage.prefill_flops + usage.decode_flops == pytest.approx(want["flops"], rel=1e-12)
    assert usage.prefill_flops >= want["linear_prefill"]
    assert usage.episodes == len(got) == len(asked) * group_size
    assert usage.train_tokens == usage.update_flops == usage.judge_flops == usage.judge_calls == 0
    assert usage.flops == usage.prefill_flops + usage.decode_flops


@pytest.mark.parametrize("group_size", [1, 4])
def test_linear_flops_are_what_torch_counts(group_size: int) -> None:
    """Exactly, where nothing is padded: single answers, prompts of different lengths, at most 8 rows at a time.

    (More rows are rounded up, see `machine.round_rows`; torch counts the padding, the bill does not.)
    """
    asked = prompts(LENGTHS)
    sampler = engine(decoder(), slots=8)
    with FlopCounterMode(display=False) as counter:
        got, _, _ = generate(sampler, asked, group_size, CASES["one-shot"][0])
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    linear = sum(n for op, n in counts.items() if op in ("aten.mm", "aten.addmm"))
    assert linear == expected(asked, got, group_size)["linear"]


def test_padding_is_computed_but_not_booked() -> None:
    """Ragged observations are padded to the longest of a turn: torch counts those tokens too, the bill does not."""
    asked = prompts(LENGTHS)
    sampler = engine(decoder())
    with FlopCounterMode(display=False) as counter:
        got, usage, _ = generate(sampler, asked, 4, CASES["turns"][0], longest=6)
    counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    linear = sum(n for op, n in counts.items() if op in ("aten.mm", "aten.addmm"))
    want = expected(asked, got, 4)["linear"]
    assert want < linear < 2 * want and usage.flops >= want


def test_group_prefill_is_paid_once() -> None:
    sampling = Sampling(turn_tokens=1, max_tokens=40)
    asked = prompts([20])
    one, many = (generate(engine(decoder()), asked, g, sampling)[1] for g in (1, 16))
    assert one.prefill_tokens == many.prefill_tokens == 20
    assert one.prefill_flops == many.prefill_flops
    assert (one.decode_tokens, many.decode_tokens) == (1, 16)
