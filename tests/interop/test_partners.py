"""Partners answer the policy in their own words: one's own classes, and agents as OpenRLHF's users write them.

Run: .venv/bin/python -m pytest tests/tasks/test_partners.py   (about 10 s on one core)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import pytest
import real
import torch
from talk import bound, converse
from transformers import PreTrainedTokenizerBase

import outdo
from outdo import rewards
from outdo.api.inputs import with_own
from outdo.errors import UserError
from outdo.interop.partners import Messages, Partner
from outdo.judges.function import FunctionJudge
from outdo.rollout.episodes import rollout
from outdo.types import Finish, Trajectory


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return real.tokenizer()


def ended(info: dict[str, Any]) -> Trajectory:
    return Trajectory("p", 0, np.arange(2), np.array([False, True]), np.zeros(2, np.float32), 0, Finish.STOP, info)


ROWS = [{"prompt": [{"role": "user", "content": f"Guess, {i}."}], "answer": i} for i in range(1, 6)]


class Guess(Partner):
    """Higher or lower, until it is found."""

    def reset(self, answer: int, **row: Any) -> str:
        self.answer, self.guesses = answer, list[int]()
        return " Between 1 and 5."

    async def respond(self, messages: Messages) -> Any:
        assert [m["role"] for m in messages][::2] == ["user"] * len(messages[::2]) and messages[-1]["role"] == "assistant"
        self.guesses.append(int(messages[-1]["content"]))
        self.done = self.guesses[-1] == self.answer
        return {"role": "user", "content": "Yes!" if self.done else "Higher." if self.guesses[-1] < self.answer else "Lower."}

    def get_reward(self) -> float:
        return float(self.done) / len(self.guesses)


def test_the_tokens_are_the_templates(tokenizer: PreTrainedTokenizerBase) -> None:
    task = bound(tokenizer, ROWS, environment_factory=Guess)
    prompt = next(p for p in task.prompts("train", 5, 0) if p.row["answer"] == 4)
    ids, mask, info = converse(task, prompt, ["3", "5", "4"])
    words = ("3", "Higher.", "5", "Lower.", "4", "Yes!")
    said = [{"role": "user" if i % 2 else "assistant", "content": w} for i, w in enumerate(words)]
    assert info["completion"] == said and prompt.row["prompt"][-1]["content"] == "Guess, 4. Between 1 and 5."
    whole = tokenizer.apply_chat_template([*prompt.row["prompt"], *said], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == whole
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "3<|im_end|>5<|im_end|>4<|im_end|>"
    assert info["environment_state"] == {"answer": 4, "guesses": [3, 5, 4], "done": True} and json.dumps(info)
    (score,) = FunctionJudge.of([rewards.environment_reward]).score([ended(info)])
    assert score.value == pytest.approx(1 / 3)


def test_who_cannot_answer_has_no_score(tokenizer: PreTrainedTokenizerBase) -> None:
    """A reply that it chokes on ends the conversation; what it paid so far is not the sample's reward."""
    task = bound(tokenizer, ROWS, environment_factory=Guess)
    _, _, info = converse(task, task.prompts("train", 1, 0)[0], ["four"])
    assert info["environment_error"].startswith("ValueError: invalid literal") and info["tool_errors"] == 1
    (score,) = FunctionJudge.of([lambda completions, **kwargs: [1.0]]).score([ended(info)])
    assert score.value is None and "the environment broke: ValueError" in score.reason


def test_one_that_ends_the_process_ends_the_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    class Leaves(Guess):
        async def respond(self, messages: Messages) -> Any:
            sys.exit(0)

    task = bound(tokenizer, ROWS, environment_factory=Leaves)
    for _ in range(2):  # the event loop that they share goes on, too
        _, _, info = converse(task, task.prompts("train", 1, 0)[0], ["4"])
        assert info["environment_error"] == "SystemExit: it called exit(0)"


def test_a_cut_reply_is_heard_and_the_last(tokenizer: PreTrainedTokenizerBase) -> None:
    task = bound(tokenizer, ROWS, environment_factory=Guess)
    ids, _, info = converse(task, task.prompts("train", 1, 0)[0], ["0"], stop=False)
    assert info["environment_state"]["guesses"] == [0] and info["turns"] == 1
    assert tokenizer.decode(ids).endswith("assistant\n0"), "nothing follows, so that it counts as cut"


def test_what_json_does_not_know(tokenizer: PreTrainedTokenizerBase) -> None:
    class Board(Partner):
        def respond(self, messages: Messages) -> None:
            self.found, self.empty = {"b", "a"}, set[str]()
            self.board, self.at = {(0, 1): "X"}, np.arange(2)

    class Ring(Partner):
        def respond(self, messages: Messages) -> None:
            self.ring = [self.done]
            self.ring.append(self.ring)  # type: ignore[arg-type]

    class Unpaid(Guess):
        def get_reward(self) -> float:
            return float("nan")

    def told(kind: type[Partner]) -> dict[str, Any]:
        task = bound(tokenizer, ROWS, environment_factory=kind)
        prompt = next(p for p in task.prompts("train", 5, 0) if p.row["answer"] == 3)
        return converse(task, prompt, ["3"])[2]

    assert told(Board)["environment_state"] == {"found": ["a", "b"], "empty": [], "board": {"(0, 1)": "X"}, "at": [0, 1]}
    assert "RecursionError" in told(Ring)["environment_error"]
    assert told(Unpaid)["environment_error"] == "ValueError: get_reward() gave nan"


def test_one_event_loop_for_all_turns(tokenizer: PreTrainedTokenizerBase) -> None:
    """A client that a partner keeps lives as long as the conversation; and a notebook's own loop is not in the way."""
    loops = []

    class Kept(Partner):
        async def respond(self, messages: Messages) -> list[dict[str, str]]:
            loops.append(asyncio.get_running_loop())
            return [{"role": "user", "content": "And?"}]

    async def in_a_notebook() -> None:
        task = bound(tokenizer, ROWS, environment_factory=Kept)
        converse(task, task.prompts("train", 1, 0)[0], ["1", "2", "3"])

    asyncio.run(in_a_notebook())
    assert len(loops) == 3 and loops[0] is loops[1] is loops[2] and not loops[0].is_closed()


def test_a_run_whose_environments_break_stops(tokenizer: PreTrainedTokenizerBase) -> None:
    task = bound(tokenizer, ROWS, environment_factory=Guess)
    _, _, broken = converse(task, task.prompts("train", 1, 0)[0], ["four"])
    judge = FunctionJudge.of([lambda completions, **kwargs: [1.0] * len(completions)])
    fine = {k: v for k, v in broken.items() if k != "environment_error"}
    assert [s.value for s in judge.score([ended(broken)] * 4 + [ended(fine)] * 4)] == [None] * 4 + [1.0] * 4
    with pytest.raises(UserError, match="could not score 5 of 8 samples; the first: the environment broke: ValueError"):
        judge.score([ended(broken)] * 5 + [ended(fine)] * 3)


# --- OpenRLHF --------------------------------------------------------------------------------------------------------


class AgentInstance:
    """As its examples are: async, even where it is made, and tensors for numbers."""

    async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]
        self.step_idx = 0

    async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"observation": states["observation"]}

    async def step(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        self.step_idx += 1
        seen = states["observation_text"]
        assert seen.startswith(("6*7?", "Say yes.")) and seen.count("user\nAgain.") == self.step_idx - 1
        right = states["action_text"].removesuffix("<|im_end|>") == states["label"]
        again = "<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n"
        return {"rewards": torch.tensor(1.0 if right else -0.25), "scores": torch.tensor(float(right)),
                "environment_feedback": "" if right else "\n" + again, "done": right,
                "sampling_params": states.get("sampling_params"), "extra_logs": {"turns": torch.tensor(self.step_idx)}}


def test_openrlhf_agents(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": [{"role": "user", "content": "6*7?"}], "label": "42"}]
    task = bound(tokenizer, rows, environment_factory=AgentInstance)
    (prompt,) = task.prompts("train", 1, 0)
    ids, mask, info = converse(task, prompt, ["41", "42"])
    again = "\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == tokenizer.decode(prompt.token_ids) + f"41<|im_end|>{again}42<|im_end|>"
    assert sum(mask) == len(tokenizer("41<|im_end|>42<|im_end|>")["input_ids"])
    assert info["environment_state"] == {"reward": 0.75, "scores": 1.0, "extra_logs": {"turns": 2.0}, "done": True}
    (score,) = FunctionJudge.of([rewards.environment_reward]).score([ended(info)])
    assert score.value == 0.75, "the steps' rewards add up"
    assert task.describe().endswith("; environment AgentInstance (OpenRLHF agent)"), "what it was taken for is said"
    assert with_own(None, [], AgentInstance) == (["outdo.rewards:environment_reward"], [1.0]), "it judges without being told"


def test_agents_that_outdo_cannot_run(tokenizer: PreTrainedTokenizerBase) -> None:
    class Opens(AgentInstance):
        async def reset(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            return {"observation": "Something else."}

    class Talks(AgentInstance):
        async def step(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            return {"rewards": 0.0, "environment_feedback": "word " * 50, "done": False}

    with pytest.raises(UserError, match=r"agent Opens: reset\(\) changes the prompt; put the words into the data"):
        bound(tokenizer, environment_factory=Opens).prompts("train", 1, 0)
    with pytest.raises(UserError, match="a partner answers every reply itself; give one or the other"):
        bound(tokenizer, tools=[rewards.per_group], environment_factory=Talks)
    task = bound(tokenizer, environment_factory=Talks, max_tool_tokens=10)
    _, _, info = converse(task, task.prompts("train", 1, 0)[0], ["41"])
    assert "it said" in info["environment_error"] and "raise max_tool_tokens = 10" in info["environment_error"]


@pytest.mark.slow
def test_real_rollouts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Through the engine: only what was sampled has log-probabilities, whoever answers, and each sample has its own partner."""

    class Echo(Partner):
        heard = 0

        def respond(self, messages: Messages) -> str | Messages:
            self.heard = len(messages)
            return [{"role": "user", "content": "Go on."}]

    for factory in (Echo, AgentInstance):
        rows = [{"prompt": [{"role": "user", "content": "Say yes."}], "label": "42"}]
        task = bound(tokenizer, rows, environment_factory=factory, max_new_tokens=12)
        trajectories, _ = rollout(real.engine(), task, task.prompts("train", 1, 0), group_size=6)
        for t in trajectories:
            turns = sum(m["role"] == "assistant" for m in t.info["completion"])
            edges = np.flatnonzero(np.diff(np.concatenate([[False], t.mask, [False]]).astype(int)))
            assert len(edges) == 2 * turns == 2 * t.info["turns"] and (t.logprobs[~t.mask] == 0).all()
            assert t.info["environment_state"].get("heard", 2 * turns) == 2 * turns
        assert not any("environment_error" in t.info for t in trajectories), trajectories[0].info
        assert max(t.info["turns"] for t in trajectories) > 1, "nobody was ever answered"


@pytest.mark.slow
def test_measured_from_python() -> None:
    rows = [{"prompt": [{"role": "user", "content": f"{i}+{i}?"}], "label": str(2 * i)} for i in range(4)]

    class Once(AgentInstance):
        async def step(self, states: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            return {"rewards": torch.tensor(0.5), "environment_feedback": "", "done": True}

    (record,) = outdo.evaluate("smollm2", rows, environment_factory=Once, decode=["greedy"], max_new_tokens=4, quiet=True,
                               threads=1, dtype="fp32")  # fmt: skip
    assert record["items"] == [0.5] * 4
