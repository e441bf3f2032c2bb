"""The verbs of the rl and imitation stages, without a run around them.

Run: .venv/bin/python -m pytest tests/stages/test_rl.py   (about 2 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from outdo.algorithms.gae import Gae
from outdo.algorithms.grpo import Grpo
from outdo.errors import UserError
from outdo.stages.common.imitation import demonstration
from outdo.stages.common.rollouts import credit, describe, judged, minibatches
from outdo.stages.rl import Rl
from outdo.types import Finish, Group, Prompt, Score, Trajectory


def trajectory(prompt: int, sample: int, sampled: int = 4) -> Trajectory:
    n = 2 + sampled
    mask = np.arange(n) >= 2
    return Trajectory(f"p/{prompt}", sample, np.arange(n), mask, np.float32(-0.5 * mask), 1, Finish.DONE)


def group(prompt: int, values: Sequence[float | None], sampled: int = 4) -> Group:
    games = tuple(trajectory(prompt, i, sampled) for i in range(len(values)))
    return Group(Prompt(f"p/{prompt}", np.arange(2)), games, tuple(Score(v) for v in values))


def loop(scores: Sequence[float | None]) -> Any:
    judge = SimpleNamespace(name="rigged", score=lambda trajectories: [Score(v) for v in scores])
    return SimpleNamespace(judge=judge)


# --- scores and credit ----------------------------------------------------------------------------------------------


def test_judged_puts_scores_where_they_belong() -> None:
    prompts = [Prompt(f"p/{i}", np.arange(2)) for i in range(2)]
    games = [trajectory(i, s) for i in range(2) for s in range(3)]
    groups = judged(loop([1.0, 0.0, None, 0.5, 0.25, 0.0]), prompts, games)
    assert [[s.value for s in g.scores] for g in groups] == [[1.0, 0.0, None], [0.5, 0.25, 0.0]]
    assert all(t.prompt_id == g.prompt.id for g in groups for t in g.trajectories)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_reward_stops_the_step(bad: float) -> None:
    """Also where everyone else in the group is equal, which would otherwise pass for a group without signal."""
    games = [trajectory(0, s) for s in range(3)]
    with pytest.raises(UserError, match=r"rigged scored sample 1 of p/0 (nan|inf|-inf)"):
        judged(loop([0.0, bad, 0.0]), [Prompt("p/0", np.arange(2))], games)


def test_a_judge_owes_one_score_each() -> None:
    games = [trajectory(0, s) for s in range(3)]
    with pytest.raises(UserError, match="gave 2 scores for 3"):
        judged(loop([0.0, 1.0]), [Prompt("p/0", np.arange(2))], games)


def test_credit() -> None:
    """Advantages on the sampled tokens alone; unscored samples and groups without signal are booked as discarded."""
    groups = [group(0, [1.0, 0.0, None, 0.5]), group(1, [1.0, 1.0, 1.0, 1.0]), group(2, [None, 1.0, None, None])]
    samples, discarded = credit(groups, Grpo())
    assert discarded == 4 * (1 + 4 + 4) and len(samples) == 3
    for sample, advantage in zip(samples, [0.5, -0.5, 0.0], strict=True):
        assert sample.advantages.dtype == np.float32
        assert sample.advantages.tolist() == [0, 0] + [advantage] * 4
        assert sample.logprobs.tolist() == [0, 0] + [-0.5] * 4 and sample.mask.tolist() == [False] * 2 + [True] * 4


def test_credit_with_a_critic() -> None:
    """Each sampled token has its own advantage, from the values of the time it was sampled; skipped groups stay skipped."""
    plain = group(0, [1.0, 0.0], sampled=2)
    values = [np.float32([0, 0, 0.7, 0.6]), np.float32([0, 0, 0.4, 0.9])]
    games = tuple(replace(t, values=v) for t, v in zip(plain.trajectories, values, strict=True))
    samples, discarded = credit([replace(plain, trajectories=games), group(1, [0.0, 0.0])], Gae(Gae.Config(lam=0.5)))
    assert discarded == 8 and len(samples) == 2
    assert samples[0].advantages.tolist() == pytest.approx([0, 0, 0.3, 0.4])  # deltas 0.1, 0.4
    assert samples[1].advantages.tolist() == pytest.approx([0, 0, -0.05, -0.9])  # deltas 0.4, -0.9
    assert [s.returns is not None and s.returns[2:].tolist() for s in samples] == [
        pytest.approx([0.8, 1.0]), pytest.approx([0.45, 0.0])]  # fmt: skip


# --- minibatches ----------------------------------------------------------------------------------------------------


def rl(**options: Any) -> Rl.Config:
    return Rl.Config(kind="rl", steps=1, **options)


def test_minibatches_hold_every_sample_once_per_epoch() -> None:
    samples, _ = credit([group(i, [1.0, 0.0, 0.5]) for i in range(7)], Grpo())
    for tokens, pieces in ((1, 21), (28, 3), (10**6, 1)):
        parts = minibatches(samples, rl(minibatch_tokens=tokens, epochs=2), seed=1, step=0)
        assert len(parts) == 2 * pieces and all(parts)
        for epoch in (parts[:pieces], parts[pieces:]):
            assert sorted(id(s) for part in epoch for s in part) == sorted(map(id, samples))
    again = minibatches(samples, rl(minibatch_tokens=28), 1, 0)
    assert [[id(s) for s in p] for p in again] == [
        [id(s) for s in p] for p in minibatches(samples, rl(minibatch_tokens=28), 1, 0)
    ]
    other = minibatches(samples, rl(minibatch_tokens=28), 1, 1)
    assert [[id(s) for s in p] for p in again] != [[id(s) for s in p] for p in other], "another step, another order"


def test_no_samples_no_minibatches() -> None:
    assert minibatches([], rl(), 1, 0) == []


def test_describe() -> None:
    got = describe([group(0, [1.0, 0.0, None]), group(1, [1.0, 1.0, 1.0], sampled=8), group(2, [None] * 3)])
    assert got == pytest.approx(
        {"reward": 0.8, "unscored": 4.0, "zero_variance_groups": 2 / 3, "entropy": 0.5, "tokens_per_episode": 16 / 3}
    )


# --- demonstrations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_on", "want"),
    [("moves", [0, 0, 1, 1, 0, 0]), ("moves+result", [0, 0, 1, 1, 0, 1]), ("everything", [0, 1, 1, 1, 1, 1])],
)
def test_demonstration(train_on: str, want: list[int]) -> None:
    mask = np.array([0, 0, 1, 1, 0, 0], bool)
    t = Trajectory("p/0", 0, np.arange(6), mask, np.float32(-1.0 * mask), -1, Finish.DONE)
    sample = demonstration(t, train_on)
    assert sample.mask.tolist() == [bool(w) for w in want] and sample.advantages.tolist() == want
    assert t.mask.tolist() == mask.tolist(), "the trajectory keeps its own mask"
