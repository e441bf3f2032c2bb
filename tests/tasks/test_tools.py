"""Conversations with tools and environments: what is observed never trains, what the policy wrote is never encoded again.

Run: .venv/bin/python -m pytest tests/tasks/test_tools.py   (about 10 s on one core)
"""

from __future__ import annotations

import copy
import json
import os
import sys
from typing import Any

import numpy as np
import pytest
import real
from talk import bound, converse
from transformers import PreTrainedTokenizerBase

from outdo import rewards
from outdo.errors import UserError
from outdo.judges.function import FunctionJudge
from outdo.rollout.episodes import rollout
from outdo.stages.common.imitation import demonstration
from outdo.system import user_code
from outdo.tasks.text import tools
from outdo.text import chat
from outdo.types import Finish, Trajectory


def multiply(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a * b


def fail(reason: str) -> str:
    """Fail.

    Args:
        reason: Why.
    """
    raise RuntimeError(reason)


def leave(code: int) -> str:
    """End the process.

    Args:
        code: Its exit code.
    """
    sys.exit(code)


class Counter:
    """An environment as TRL users write them: count up to the goal."""

    def reset(self, goal: int, **kwargs: Any) -> str:
        self.count, self.goal, self._secret = 0, goal, "s"
        return f" The goal is {goal}."

    def add(self, n: int) -> str:
        """Add to the count.

        Args:
            n: How much.
        """
        self.count += n
        return f"count is {self.count}"

    def get_reward(self) -> float:
        return float(self.count == self.goal)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return real.tokenizer()


def test_the_tokens_are_the_templates(tokenizer: PreTrainedTokenizerBase) -> None:
    """The whole episode reads as the template would write the conversation; only the policy's words are sampled."""
    task = bound(tokenizer, tools=[multiply])
    (prompt,) = task.prompts("train", 1, 0)
    said = [f"Let me see. {call('multiply', a=6, b=7)}", "It is 42."]
    ids, mask, info = converse(task, prompt, said)
    messages = [*prompt.row["prompt"], {"role": "assistant", "content": said[0]}, {"role": "tool", "content": "42"},
                {"role": "assistant", "content": said[1]}]  # fmt: skip
    assert tokenizer.decode(ids) + "\n" == tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "".join(s + "<|im_end|>" for s in said)
    assert '"name": "multiply"' in messages[0]["content"], "this template says nothing of tools, so the system message does"
    assert info["completion"] == [
        {"role": "assistant", "content": "Let me see.",
         "tool_calls": [{"type": "function", "function": {"name": "multiply", "arguments": {"a": 6, "b": 7}}}]},
        {"role": "tool", "name": "multiply", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]  # fmt: skip
    assert (info["turns"], info["tool_errors"]) == (2, 0) and json.dumps(info)


@pytest.mark.parametrize(
    ("said", "want"),
    [
        (call("fail", reason="no luck"), "Error: RuntimeError: no luck"),
        (call("leave", code=0), "Error: SystemExit: it called exit(0)"),
        (call("divide", a=1), "Error: no tool is called 'divide'; there is multiply, fail, leave"),
        (call("multiply", a=1), "Error: TypeError"),
        ("<tool_call>{not json</tool_call>", "Error: not a call in JSON"),
        ('<tool_call>["multiply"]</tool_call>', "Error: not a call in JSON"),
        ('<tool_call>{"name": "multiply", "arguments": 3}</tool_call>', "Error: name must be a string and arguments an object"),
    ],
)
def test_what_goes_wrong_is_observed(tokenizer: PreTrainedTokenizerBase, said: str, want: str) -> None:
    task = bound(tokenizer, tools=[multiply, fail, leave])
    _, _, info = converse(task, task.prompts("train", 1, 0)[0], [said, "Oh."])
    assert info["completion"][1]["role"] == "tool" and info["completion"][1]["content"].startswith(want)
    assert info["tool_errors"] == 1


def test_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    """No call, a cut reply, or the last turn; two calls in one reply are answered together; long results are cut."""
    task = bound(tokenizer, tools=[multiply], max_tool_tokens=3)
    (prompt,) = task.prompts("train", 1, 0)
    one = call("multiply", a=1, b=2)
    assert len(converse(task, prompt, ["no"])[2]["completion"]) == 1
    assert len(converse(task, prompt, [one], stop=False)[2]["completion"]) == 1, "half a turn calls nothing"
    assert [m["role"] for m in converse(task, prompt, [one + one, one, one])[2]["completion"]] == [
        "assistant", "tool", "tool", "assistant", "tool", "assistant", "tool"]  # fmt: skip
    _, _, info = converse(task, prompt, [call("multiply", a=10**9, b=10**9), "."])
    assert info["completion"][1]["content"] == "100"


def test_environments(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"Count, {i}."}], "goal": i} for i in range(1, 5)]
    task = bound(tokenizer, rows, environment_factory=Counter)
    prompts = task.prompts("train", 4, 0)
    assert all(p.row["prompt"][-1]["content"].endswith(f" The goal is {p.row['goal']}.") for p in prompts)
    infos = [converse(task, p, [call("add", n=1), call("add", n=1), "done"])[2] for p in prompts]
    assert [i["environment_reward"] for i in infos] == [float(i["goal"] == 2) for i in infos]
    assert infos[0]["environment_state"] == {"count": 2, "goal": infos[0]["goal"]} and "asked" not in infos[0]
    assert all(json.dumps(i) for i in infos)

    def close(completions: list[Any], environments: list[Any], **kwargs: Any) -> list[float]:
        return [-abs(e.count - e.goal) for e in environments]

    games = [demo(i) for i in infos]
    judge = FunctionJudge.of([rewards.environment_reward, close])
    assert [s.value for s in judge.score(games)] == [float(g == 2) - abs(2 - g) for g in (i["goal"] for i in infos)]


def demo(info: dict[str, Any]) -> Trajectory:
    return Trajectory("p", 0, np.arange(2), np.array([False, True]), np.zeros(2, np.float32), 0, Finish.STOP, info)


def test_bad_tools_and_environments(tokenizer: PreTrainedTokenizerBase) -> None:
    class Dice(Counter):
        thrown = 0

        def reset(self, **kwargs: Any) -> str:
            Dice.thrown += 1
            return str(Dice.thrown)

    with pytest.raises(UserError, match="tool <lambda> cannot be described to the model"):
        bound(tokenizer, tools=[lambda x: x])
    task = bound(tokenizer, environment_factory=Dice)
    with pytest.raises(UserError, match=r"environment Dice: reset\(\) said something else the second time"):
        task.episodes(task.prompts("train", 1, 0), np.arange(1))
    with pytest.raises(UserError, match=r"environment Counter: reset\(\*\*row\) raised TypeError"):
        bound(tokenizer, environment_factory=Counter).prompts("train", 1, 0)


def test_environments_that_end_the_process(tokenizer: PreTrainedTokenizerBase) -> None:
    class Leaves(Counter):
        def __init__(self, when: str) -> None:
            self.when = when
            self._leave("made")

        def _leave(self, now: str) -> None:
            if self.when == now:
                os.chdir("/")
                sys.exit(0)

        def reset(self, **row: Any) -> None:  # type: ignore[override]
            self._leave("reset")

        def get_reward(self) -> float:
            self._leave("paid")
            return 1.0

    here = os.getcwd()
    with pytest.raises(UserError, match=r"environment .* cannot be made \(SystemExit: it called exit\(0\)\)"):
        bound(tokenizer, environment_factory=lambda: Leaves("made"))
    with pytest.raises(UserError, match=r"reset\(\*\*row\) raised SystemExit: it called exit\(0\)"):
        bound(tokenizer, environment_factory=lambda: Leaves("reset")).prompts("train", 1, 0)
    task = bound(tokenizer, environment_factory=lambda: Leaves("paid"))
    _, _, info = converse(task, task.prompts("train", 1, 0)[0], ["Oh."])
    assert info["environment_error"] == "SystemExit: it called exit(0)" and os.getcwd() == here
    user_code._theirs.clear()


def test_templates_that_rewrite_the_past(tokenizer: PreTrainedTokenizerBase) -> None:
    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = tokenizer.chat_template.replace("message['content']", "messages[-1]['content']")
    assert rewriting.chat_template != tokenizer.chat_template
    with pytest.raises(UserError, match="the chat template leaves out an earlier turn when the conversation goes on"):
        chat.between_turns(rewriting, [{"role": "tool", "content": "42"}], [])


@pytest.mark.slow
def test_a_real_rollout_trains_only_what_was_sampled(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the engine: sampled tokens train, tool tokens do not, and the finish says who ended it."""
    # The tool answers every reply that was not cut, so that a small model has a conversation without knowing how to call.
    monkeypatch.setattr(tools, "calls", lambda text: [("multiply", {"a": 6, "b": 7})])
    task = bound(tokenizer, [{"prompt": [{"role": "user", "content": "Say yes."}]}], tools=[multiply], max_new_tokens=12)
    trajectories, _ = rollout(real.engine(), task, task.prompts("train", 1, 0), group_size=8)
    several = 0
    for t in trajectories:
        text = tokenizer.decode(t.token_ids)
        results = [m for m in t.info["completion"] if m["role"] == "tool"]
        replies = [m["content"] for m in t.info["completion"] if m["role"] == "assistant"]
        assert text.count("<|im_start|>tool\n42<|im_end|>") == len(results)
        sampled = tokenizer.decode(t.token_ids[t.mask])
        assert "tool\n42" not in sampled and (t.logprobs[~t.mask] == 0).all()
        spans = [tokenizer.decode(t.token_ids[a:b], skip_special_tokens=True) for a, b in runs(t.mask)]
        assert spans == [tools._CALL.sub("", r) for r in spans] and len(spans) == len(replies)
        assert t.finish == (Finish.DONE if len(results) == 3 else Finish.LENGTH)
        assert (demonstration(t, "moves").mask == t.mask).all()
        several += len(results) > 0
    assert several, "no tool was ever called"


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


class Speller:
    """Another environment, that pays nothing itself and owns its prompt."""

    def reset(self, word: str | None, **kwargs: Any) -> str:
        assert "environment" not in kwargs, "it chose the environment, it is none of its business"
        self.word, self.said = word, ""
        return f"Spell {word}."

    def spell(self, letters: str) -> str:
        """Spell the word.

        Args:
            letters: Its letters.
        """
        self.said = letters
        return "Noted."


def test_rows_choose_their_environment(tokenizer: PreTrainedTokenizerBase) -> None:
    """A dict of factories, as in TRL: each row sees its own environment's tools alone, and a row may have no prompt at all."""
    rows = [{"prompt": [{"role": "user", "content": f"Count, {i}."}], "goal": i, "environment": "count"} for i in range(1, 4)]
    rows += [{"word": w, "environment": "spell"} for w in ("ape", "bee", "cat", "dog")]  # type: ignore[misc]
    task = bound(tokenizer, rows, environment_factory={"count": Counter, "spell": Speller})
    prompts = task.prompts("train", 7, 0)
    assert len({p.id for p in prompts}) == 7 == len({str(p.row["prompt"]) for p in prompts})
    for p in prompts:
        shown, spells = tokenizer.decode(p.token_ids), p.row["environment"] == "spell"
        assert ('"spell"' in shown, '"add"' in shown) == (spells, not spells)
        assert not spells or p.row["prompt"][-1] == {"role": "user", "content": f"Spell {p.row['word']}."}
    replies = [call("add", n=2), call("spell", letters="cat"), "done"]
    infos = [converse(task, p, replies)[2] for p in prompts]
    assert all(i["tool_errors"] == 1 for i in infos), "the other environment's tool is not there"
    paid = [s.value for s in FunctionJudge.of([rewards.environment_reward]).score([demo(i) for i in infos])]
    assert paid == [None if i["environment"] == "spell" else float(i["goal"] == 2) for i in infos]

    def spelt(environments: list[Any], **kwargs: Any) -> list[float | None]:
        return [float(e.word == e.said) if hasattr(e, "word") else None for e in environments]

    both = FunctionJudge.of([rewards.environment_reward, spelt]).score([demo(i) for i in infos])
    assert [s.value for s in both] == [float(i.get("word") == "cat" or i.get("goal") == 2) for i in infos]
    for environment in ("chess", None):
        with pytest.raises(UserError, match=r"row 0 .* has environment = .*; the column names one of count, spell"):
            bound(tokenizer, [{**rows[0], "environment": environment}], environment_factory={"count": Counter, "spell": Speller}
                  ).prompts("train", 1, 0)  # fmt: skip
