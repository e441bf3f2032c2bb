"""Conversations of several turns under a chat template that drops earlier thoughts, sampled and trained both ways.

Run: .venv/bin/python -m pytest tests/rollout/test_history.py   (about 10 s on one core)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import real
from chats import FORGETFUL, with_template
from talk import bound

from outdo.algorithms.grpo import Grpo
from outdo.interop.partners import Partner
from outdo.rollout.episodes import rollout
from outdo.stages.common.rollouts import credit
from outdo.text import chat
from outdo.types import Group, Score

THOUGHT = "<think>hm</think>"


class Asks(Partner):
    """Asks again, twice."""

    def respond(self, messages: Any) -> Any:
        return {"role": "user", "content": f"And {len(messages)}?"}


def task(history: str) -> Any:
    return bound(with_template(FORGETFUL), environment_factory=Asks, history=history, max_new_tokens=6, max_turns=3,
                 max_prompt_tokens=40, max_tool_tokens=24)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def thoughtful() -> Any:
    """Whatever the small model writes begins with a thought, so that there is something to drop."""
    original = chat.decode
    chat.decode = lambda tokenizer, ids, ends=(): THOUGHT + original(tokenizer, ids, ends)
    yield
    chat.decode = original


@pytest.mark.parametrize("history", ["append", "render"])
def test_turns(history: str) -> None:
    played = task(history)
    prompts = played.prompts("train", 1, 0)
    trajectories, usage = rollout(real.engine(), played, prompts, group_size=3, seed=4)
    again, _ = rollout(real.engine(), played, prompts, group_size=3, seed=4)
    assert [t.token_ids.tolist() for t in trajectories] == [t.token_ids.tolist() for t in again]
    assert usage.episodes == 3 and usage.decode_tokens == sum(t.sampled_tokens for t in trajectories)
    for sample, t in enumerate(trajectories):
        assert (t.prompt_id, t.sample) == (prompts[0].id, sample)
        turns = t.info["turns"]
        assert len(t.pieces) == (turns if history == "render" else 1)
        if history == "render":
            for number, piece in enumerate(t.pieces):
                context = piece.token_ids[~piece.mask]
                said = [*prompts[0].row["prompt"], *t.info["completion"][: 2 * number]]
                assert context.tolist() == chat.encode(played.tokenizer(), chat.render(played.tokenizer(), said)).tolist()
                assert (piece.logprobs[piece.mask] < 0).all(), "the tokens and log-probabilities are those that were sampled"
            assert THOUGHT not in played.tokenizer().decode(t.token_ids), "the template drops earlier thoughts"


def test_every_turn_trains_with_the_advantage_of_its_episode() -> None:
    played = task("render")
    prompts = played.prompts("train", 1, 0)
    trajectories, _ = rollout(real.engine(), played, prompts, group_size=2, seed=4)
    group = Group(prompts[0], tuple(trajectories), (Score(0.0), Score(1.0)))
    samples, discarded = credit([group], Grpo())
    assert discarded == 0 and len(samples) == sum(len(t.pieces) for t in trajectories)
    pieces = [p for t in trajectories for p in t.pieces]
    signs = [np.sign(s.advantages[s.mask]).tolist() for s in samples]
    assert signs == [[-1.0] * int(p.mask.sum()) for p in trajectories[0].pieces] + [
        [1.0] * int(p.mask.sum()) for p in trajectories[1].pieces]
    assert all(s.token_ids is p.token_ids for s, p in zip(samples, pieces, strict=True)), "nothing is tokenised again"


def test_the_choice_is_said() -> None:
    kept, followed = task("append"), task("render")
    for played in (kept, followed):
        played.prompts("train", 1, 0)
    assert "drops earlier thoughts" in kept.describe() and "history = 'render'" in kept.describe()
    assert "thoughts" not in followed.describe()
