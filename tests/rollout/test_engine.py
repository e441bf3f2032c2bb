"""The engine against its slow twin: cache, prefill per group, continuous batching, ragged observations.

Run: .venv/bin/python -m pytest tests/rollout/test_engine.py   (about 15 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from slow import generate, slow
from toys import SMALL, Ragged, as_sample, config, decoder, engine, prompts

from outdo.errors import UserError
from outdo.kernels import Panels
from outdo.models.critic import Critic
from outdo.models.decoder import Decoder
from outdo.recipe import OptimizerConfig
from outdo.rollout.engine import Sampling
from outdo.training.batch import micro_batches
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer
from outdo.types import Finish, Prompt, Trajectory

LENGTHS = [3, 7, 7, 1, 12, 3, 7, 20]
ONE_SHOT = Sampling(turn_tokens=9, max_tokens=40, stop_ids=(4, 11))
TURNS = Sampling(turn_tokens=4, max_tokens=40, stop_ids=(4, 11))


@pytest.fixture(scope="module")
def model() -> Decoder:
    return decoder()


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    return prompts(LENGTHS)


def by_name(trajectories: Sequence[Trajectory]) -> dict[tuple[str, int], tuple[list[int], list[bool], str]]:
    return {(t.prompt_id, t.sample): (t.token_ids.tolist(), t.mask.tolist(), t.finish.value) for t in trajectories}


def trained_logprobs(model: Decoder, trajectories: Sequence[Trajectory], temperature: float = 1.0,
                     dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What the trainer says about the sampled tokens, and what the sampler said."""
    trainer = Trainer(model, Optimizer(model, OptimizerConfig()), dtype, temperature=temperature)
    (batch,) = micro_batches([as_sample(t) for t in trajectories], 10**6)
    with torch.no_grad():
        return trainer.forward(batch)[0], batch.old_logprobs_N


def test_values_are_what_the_trainer_says(model: Decoder, asked: list[Prompt]) -> None:
    """A critic's values, sampled beside the tokens, equal the ones of a whole forward pass; without one there are none."""
    critic = Critic(SMALL.hidden_size)
    with torch.no_grad():
        critic.weight.copy_(torch.linspace(-1, 1, SMALL.hidden_size))
        critic.bias.fill_(0.5)
    e = engine(model)
    without, _ = e.generate(asked, 2, ONE_SHOT, 5)
    assert all(t.values is None for t in without)
    e.load(3, critic)
    got, _ = e.generate(asked, 2, ONE_SHOT, 5)
    assert by_name(got) == by_name(without), "a critic watches, it does not play"
    trainer = Trainer(model, Optimizer(model, OptimizerConfig(), critic), torch.float32, critic=critic)
    for t in got:
        (batch,) = micro_batches([as_sample(t)], 10**6)
        values = trainer.forward(batch)[1]
        assert values is not None and t.values is not None and (t.values[~t.mask] == 0).all()
        np.testing.assert_allclose(t.values[t.mask], values.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert np.ptp(np.concatenate([t.values[t.mask] for t in got if t.values is not None])) > 0.1


# --- against the slow twin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [4, 7, 64])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("sampling", "longest"), [(ONE_SHOT, None), (TURNS, 6)], ids=["one-shot", "turns"])
def test_equals_the_slow_twin(model: Decoder, asked: list[Prompt], sampling: Sampling, longest: int | None,
                              temperature: float, slots: int) -> None:  # fmt: skip
    """Tokens, mask and log-probabilities of groups of three, whatever waits for a slot and enters later."""
    sampling = Sampling(temperature, sampling.turn_tokens, sampling.max_tokens, sampling.stop_ids)
    got, _, _ = generate(engine(model, slots=slots), asked, 3, sampling, longest=longest)
    assert [(t.prompt_id, t.sample) for t in got] == [(p.id, g) for p in asked for g in range(3)]
    for t in got[:: 1 if slots == 7 else 4]:
        prompt = next(p for p in asked if p.id == t.prompt_id)
        alone = Ragged([prompt], 1, longest) if longest else None
        tokens, mask, logprobs = slow(model, prompt, t.sample, sampling, seed=5, version=3, environment=alone)
        assert t.token_ids.tolist() == tokens and t.mask.tolist() == mask
        np.testing.assert_allclose(t.logprobs, logprobs, atol=1e-5)


def test_observations_longer_than_the_room_left(model: Decoder) -> None:
    """A row near its end beside a row with a long observation: padding reaches past the context, and nobody notices.

    max_tokens is the model's whole context, so neither the cache nor the rotary table has room behind it.
    """
    asked = prompts([55, 3, 57, 30, 5], seed=2)
    sampling = Sampling(turn_tokens=2, max_tokens=SMALL.max_position_embeddings)
    got, _, _ = generate(engine(model), asked, 12, sampling, longest=29)
    for t in got:
        prompt = next(p for p in asked if p.id == t.prompt_id)
        tokens, mask, logprobs = slow(model, prompt, t.sample, sampling, 5, 3, Ragged([prompt], 1, 29))
        assert t.token_ids.tolist() == tokens and t.mask.tolist() == mask
        np.testing.assert_allclose(t.logprobs, logprobs, atol=1e-5)


class Uneven:
    """Row 0 is told one token after every reply, row 1 a hundred; nobody is ever done."""

    def step(self, rows_R: np.ndarray, replies_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.full((len(rows_R), 100), -1)
        for i, row in enumerate(rows_R):
            out[i, : (1, 100)[row]] = 7
        return out, np.zeros(len(rows_R), bool)

    def info(self, row: int) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("context", [400, 200])
def test_a_long_observation_beside_a_row_near_its_end(context: int) -> None:
    """Padding reaches far behind the short row's end, also where max_tokens is the model's whole context."""
    long = decoder(config(max_position_embeddings=context))
    got, _ = engine(long).generate(prompts([190, 3]), 1, Sampling(turn_tokens=1, max_tokens=200), 5, Uneven())
    assert [t.finish for t in got] == [Finish.LENGTH] * 2 and [int(t.mask.sum()) for t in got] == [5, 2]
    recomputed, sampled = trained_logprobs(long, got)
    torch.testing.assert_close(recomputed, sampled, rtol=0, atol=2e-5)


# --- what does not matter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampling", "longest"), [(ONE_SHOT, None), (TURNS, 6)], ids=["one-shot", "turns"])
def test_company_and_order_do_not_matter(model: Decoder, asked: list[Prompt], sampling: Sampling, longest: int | None) -> None:
    """A prompt alone, in a batch, in another order, with few slots: identical tokens in float32."""
    want = by_name(generate(engine(model), asked, 4, sampling, longest=longest)[0])
    for order, slots in [(asked[::-1], 64), (asked, 4), (asked[3:] + asked[:3], 9), (asked[::-1], 5)]:
        assert by_name(generate(engine(model, slots=slots), order, 4, sampling, longest=longest)[0]) == want
    for prompt in asked:
        alone = by_name(generate(engine(model), [prompt], 4, sampling, longest=longest)[0])
        assert alone == {k: v for k, v in want.items() if k[0] == prompt.id}
    assert len({str(v) for v in want.values()}) > 24, "samples of one prompt differ from each other"


def test_smaller_groups_are_prefixes_of_larger_ones(model: Decoder, asked: list[Prompt]) -> None:
    """One prefill per group gives what a prefill per sample gives."""
    want = by_name(generate(engine(model), asked, 5, TURNS, longest=6)[0])
    few = by_name(generate(engine(model), asked, 2, TURNS, longest=6)[0])
    assert few == {k: v for k, v in want.items() if k[1] < 2}


def test_seed_and_version_and_prompt_decide(model: Decoder, asked: list[Prompt]) -> None:
    def tokens(seed: int, version: int) -> Any:
        return by_name(generate(engine(model, version=version), asked, 2, ONE_SHOT, seed=seed)[0])

    base = tokens(1, 1)
    assert tokens(1, 1) == base and tokens(2, 1) != base and tokens(1, 2) != base


def test_an_engine_can_be_used_again(model: Decoder, asked: list[Prompt]) -> None:
    """What an earlier call left in the cache is invisible, also after the cache has grown."""
    used = engine(model)
    generate(used, prompts([30, 40], seed=9), 8, Sampling(turn_tokens=20, max_tokens=60))
    again = generate(used, asked, 3, TURNS, longest=6)[0]
    assert by_name(again) == by_name(generate(engine(model), asked, 3, TURNS, longest=6)[0])
    wider = Sampling(turn_tokens=4, max_tokens=64, stop_ids=(4, 11))
    grown = generate(used, asked, 3, wider, longest=6)[0]
    assert by_name(grown) == by_name(generate(engine(model), asked, 3, wider, longest=6)[0])


def test_greedy_ignores_seed_and_sample(model: Decoder, asked: list[Prompt]) -> None:
    greedy = Sampling(0.0, 9, 40)
    a, b = (by_name(generate(engine(model), asked, 3, greedy, seed=s)[0]) for s in (1, 2))
    assert a == b
    assert all(a[p.id, 0] == a[p.id, 1] == a[p.id, 2] for p in asked)


# --- sampler and trainer agree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_logprobs_equal_the_trainers(model: Decoder, asked: list[Prompt], temperature: float) -> None:
    sampling = Sampling(temperature, 4, 60, (4, 11))
    got, _, _ = generate(engine(model, slots=11), asked, 4, sampling, longest=6)
    recomputed, sampled = trained_logprobs(model, got, temperature)
    torch.testing.assert_close(recomputed, sampled, rtol=0, atol=1e-5)
    other, _ = trained_logprobs(model, got, temperature * 1.1)
    assert (other - sampled).abs().max() > 0.05, "the temperature matters"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepacked_weights_change_nothing(asked: list[Prompt], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers have their weights in another order: the trainer's log-probs all the same."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bf16 hardware: weights stay in their order")
    monkeypatch.setattr("outdo.models.decoder._LARGE_BYTES", 0)
    model = decoder(config(hidden_size=128, intermediate_size=200, num_hidden_layers=4), std=0.15)
    sampler = engine(model, dtype, slots=11)
    ordered = [sampler._packed.head, sampler._packed.layers[3].down.weight]
    assert all(isinstance(x, Panels) or x.is_mkldnn for x in ordered)
    got, _, _ = generate(sampler, asked, 4, Sampling(turn_tokens=4, max_tokens=60), longest=6)
    gaps = [(r - s).abs() for r, s in (trained_logprobs(model, [t], dtype=dtype) for t in got)]
    assert float(torch.cat(gaps).max()) < (3e-5 if dtype == torch.float32 else 0.15)
    assert float(torch.cat(gaps).mean()) < (3e-6 if dtype == torch.float32 else 0.015)


def test_bf16_gap_between_sampler_and_trainer(asked: list[Prompt]) -> None:
    """0.015 nats on average here, 0.14 at most; float32 is 0.04 away from either.

    All of it comes from packing: a sample further along its row is rotated by other (equivalent) angles, which
    round differently. Alone in their rows, sampler and trainer agree to the bit on this project's machines.
    """
    model = decoder(config(hidden_size=128, intermediate_size=200, num_hidden_layers=4), std=0.15)
    got, _, _ = generate(engine(model, torch.bfloat16), asked, 8, Sampling(turn_tokens=4, max_tokens=60), longest=6)
    recomputed, sampled = trained_logprobs(model, got, dtype=torch.bfloat16)
    exact, _ = trained_logprobs(model, got)
    assert float((exact - sampled).abs().mean()) > 0.01, "the sampler did not compute in bf16"
    gap = (recomputed - sampled).abs()
    assert float(gap.mean()) < 0.03 and float(gap.max()) < 0.3
    alone = [trained_logprobs(model, [t], dtype=torch.bfloat16) for t in got[:12]]
    assert max(float((r - s).abs().max()) for r, s in alone) < 0.02


# --- records --------------------------------------------------------------------------------------------------------


def test_mask_marks_exactly_what_was_sampled(model: Decoder, asked: list[Prompt]) -> None:
    """Rebuild every trajectory from what the environment saw and said."""
    got, _, environment = generate(engine(model, slots=9), asked, 3, TURNS, longest=6)
    assert environment is not None
    cut = 0
    for row, t in enumerate(got):
        pieces = [(asked[row // 3].token_ids.tolist(), False)]
        for reply, observation in zip(environment.replies[row], environment.observations[row], strict=True):
            pieces += [(reply, True), (observation, False)]
        tokens = [token for piece, _ in pieces for token in piece]
        mask = [sampled for piece, sampled in pieces for _ in piece]
        end = len(t.token_ids)
        assert t.token_ids.tolist() == tokens[:end] and t.mask.tolist() == mask[:end]
        assert ((t.logprobs < 0) == t.mask).all() and (t.logprobs[~t.mask] == 0).all()
        assert end == min(len(tokens), TURNS.max_tokens)
        assert t.info == {"turns": len(environment.replies[row])} and t.policy_version == 3
        ended = environment.left[row] == 0
        spoke = ended and environment.observations[row][-1]
        stopped = ended and environment.replies[row][-1][-1] in TURNS.stop_ids
        assert t.finish == (Finish.DONE if spoke else Finish.STOP if stopped else Finish.LENGTH)
        cut += t.finish == Finish.LENGTH
    assert 0 < cut < len(got)


def test_one_shot_finishes(model: Decoder, asked: list[Prompt]) -> None:
    got, _, _ = generate(engine(model), asked, 6, Sampling(turn_tokens=9, max_tokens=25, stop_ids=(4, 11)))
    finishes = set()
    for t in got:
        stopped = t.token_ids[-1] in (4, 11)
        assert t.finish == (Finish.STOP if stopped else Finish.LENGTH)
        assert not np.isin(t.token_ids[t.mask][:-1], (4, 11)).any(), "nothing is written after a stop token"
        if not stopped:
            assert t.mask.sum() == 9 or len(t.token_ids) == 25
        finishes.add((t.finish, len(t.token_ids) == 25))
    assert {(Finish.STOP, False), (Finish.LENGTH, False), (Finish.LENGTH, True)} <= finishes


def test_replies_hold_the_whole_turn_and_nothing_else(model: Decoder, asked: list[Prompt]) -> None:
    got, _, environment = generate(engine(model), asked, 3, TURNS, longest=6)
    assert environment is not None
    turns = [reply for row in environment.replies for reply in row]
    assert {len(r) for r in turns} == {1, 2, 3, 4}
    for t, replies in zip(got, environment.replies, strict=True):
        for i, reply in enumerate(replies):
            cut = i == len(replies) - 1 and len(t.token_ids) == TURNS.max_tokens
            assert len(reply) == 4 or reply[-1] in (4, 11) or cut
    assert all(t not in (4, 11) for r in turns for t in r[:-1])


def test_progress_counts_finished_rows(model: Decoder, asked: list[Prompt]) -> None:
    seen: list[tuple[int, int]] = []
    engine(model, slots=6).generate(asked, 2, ONE_SHOT, 0, None, lambda done, of: seen.append((done, of)))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[0][0] < 16 and seen[-1] == (16, 16)


def test_no_prompts(model: Decoder) -> None:
    got, usage, _ = generate(engine(model), [], 4, ONE_SHOT)
    assert got == [] and usage.flops == 0


def test_a_group_must_fit_into_the_slots(model: Decoder, asked: list[Prompt]) -> None:
    with pytest.raises(AssertionError, match="5 does not fit into 4"):
        generate(engine(model, slots=4), asked, 5, ONE_SHOT)


@pytest.mark.parametrize(("length", "max_tokens", "reason"), [(40, 40, "40 tokens"), (50, 40, "50"), (0, 40, "0 tokens"),
                                                                (5, 65, "context of 64")])  # fmt: skip
def test_what_does_not_fit_is_a_user_error(model: Decoder, length: int, max_tokens: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        generate(engine(model), prompts([3, length]), 1, Sampling(max_tokens=max_tokens))


def test_weights_are_those_of_the_last_load(asked: list[Prompt]) -> None:
    """In the engine's own dtype: what training does to the model in between stays unseen until load()."""
    model = decoder()
    sampler = engine(model, torch.bfloat16)
    before = by_name(generate(sampler, asked, 2, ONE_SHOT)[0])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    assert by_name(generate(sampler, asked, 2, ONE_SHOT)[0]) == before
    sampler.load(4)
    assert by_name(generate(sampler, asked, 2, ONE_SHOT)[0]) != before


def test_released_weights_come_back_with_the_next_load(model: Decoder, asked: list[Prompt]) -> None:
    sampler, sampling = engine(model), Sampling(turn_tokens=4, max_tokens=40)
    want, _ = sampler.generate(asked, 2, sampling, 0)
    sampler.release()
    with pytest.raises(AssertionError, match="load"):
        sampler.generate(asked, 2, sampling, 0)
    sampler.load(sampler.version)
    got, _ = sampler.generate(asked, 2, sampling, 0)
    assert all(np.array_equal(g.token_ids, w.token_ids) for g, w in zip(got, want, strict=True))
