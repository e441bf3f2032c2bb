"""Environments of verifiers, written as its users write them against stand-ins of its classes: the package is not installed.

The stand-ins hold what verifiers 0.1.5 (legacy) and 0.4.0 (v1) have under these names.

    pytest tests/test_from_verifiers.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import real
from talk import bound, converse

import outdo
from outdo import from_verifiers
from outdo.errors import UserError
from outdo.judges.function import FunctionJudge
from outdo.types import Finish, Trajectory


def replied(row: dict[str, Any], words: str) -> Trajectory:
    said = {**row, "completion": [{"role": "assistant", "content": words}]}
    return Trajectory("p/0", 0, np.arange(4), np.arange(4) > 1, np.zeros(4, np.float32), 0, Finish.STOP, said)


# --- legacy ----------------------------------------------------------------------------------------------------------


@dataclass
class Rubric:
    funcs: list[Callable[..., Any]]
    weights: list[float]
    parser: Any = None
    class_objects: dict[str, Any] = field(default_factory=dict)


class SingleTurnEnv:
    def __init__(self, dataset: list[dict[str, Any]], rubric: Rubric, max_turns: int = -1) -> None:
        self.dataset, self.rubric, self.max_turns = dataset, rubric, max_turns

    def get_dataset(self) -> list[dict[str, Any]]:
        return self.dataset

    def env_response(self, messages: Any, state: Any) -> Any:
        raise NotImplementedError


class ToolEnv(SingleTurnEnv):
    def __init__(self, tools: list[Callable[..., Any]], **options: Any) -> None:
        super().__init__(**options)
        self.tools = tools


ROWS = [{"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": f"{i}+{i}?"}], "answer": str(2 * i),
         "task": "default", "info": '{"level": 3}'} for i in range(8)]  # fmt: skip


def correct(parser: Any, completion: Any, answer: str) -> float:
    return float(parser.parse_answer(completion) == answer)


async def level(info: dict[str, Any], state: dict[str, Any], **kwargs: Any) -> float:
    assert state["answer"] and state["prompt"]
    return float(info["level"])


def best(completions: list[Any], answers: list[str]) -> list[float]:
    return [float(len(completions))] * len(answers)


def load_environment(**options: Any) -> SingleTurnEnv:
    parser = SimpleNamespace(parse_answer=lambda said: said[-1]["content"].removeprefix("= "))
    return SingleTurnEnv(ROWS, Rubric([correct, level, best], [1.0, 0.0, 0.25], parser), **options)


def test_legacy_environments() -> None:
    found = from_verifiers.opened(load_environment())
    assert found.rows[3] == {**ROWS[3], "info": {"level": 3}} and not found.tools and not found.options
    judge = FunctionJudge.of(found.reward, found.weights)
    scores = judge.score([replied(found.rows[3], "= 6"), replied(found.rows[3], "= 7")])
    assert [s.value for s in scores] == [1.5, 0.5] and judge.logged() == {"level": 3.0}


def test_tool_environments() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    found = from_verifiers.opened(ToolEnv([add], dataset=ROWS, rubric=load_environment().rubric, max_turns=10))
    assert found.tools == [add] and found.options == {"max_turns": 10}

    class Stateful(ToolEnv):
        def env_response(self, messages: Any, state: Any) -> Any:
            return [], state

    with pytest.raises(UserError, match="environment Stateful has tools and an env_response of its own"):
        from_verifiers.opened(Stateful([add], dataset=ROWS, rubric=load_environment().rubric))
    silent = type("MultiTurnEnv", (), {**vars(SingleTurnEnv)})(ROWS, load_environment().rubric)
    with pytest.raises(UserError, match="environment MultiTurnEnv has no env_response"):
        from_verifiers.opened(silent)


class Guess(SingleTurnEnv):
    """As environments were written until verifiers 0.1.7: is_completed(messages, state), and answers with the state."""

    def setup_state(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "guesses": []}

    async def is_completed(self, messages: Any, state: dict[str, Any], **kwargs: Any) -> bool:
        return state["answer"] in state["guesses"]

    def env_response(self, messages: Any, state: dict[str, Any], **kwargs: Any) -> Any:
        assert messages[-1]["content"] == messages[-1].content, "newer ones read attributes"
        assert [m["role"] for m in state["completion"]] == ["assistant", "user"] * (state["turn"] - 1) + ["assistant"]
        state["guesses"].append(messages[-1]["content"])
        return [{"role": "user", "content": "no" if state["guesses"][-1] != state["answer"] else "yes"}], state


class NewGuess(Guess):
    """As they are since 0.1.8: marked conditions, and a last answer in the state."""

    async def setup_state(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        state["guesses"] = []

    async def is_completed(self, state: dict[str, Any], **kwargs: Any) -> bool:  # type: ignore[override]
        raise AssertionError("it asks for times and clients that outdo does not have")

    async def enough(self, state: dict[str, Any]) -> bool:
        return len(state["trajectory"]) >= self.max_turns

    enough.stop = True  # type: ignore[attr-defined]

    async def env_response(self, messages: Any, state: dict[str, Any], **kwargs: Any) -> Any:
        said, _ = super().env_response(messages, state)
        if said[0]["content"] == "yes":
            state["final_env_response"] = said
        return said


@pytest.mark.parametrize("kind", [Guess, NewGuess])
def test_environments_that_answer(kind: type[SingleTurnEnv]) -> None:
    """The conversation, its ends, and what the rubric is told of the state; checked beside verifiers 0.1.5, 0.1.9 and 0.3.1."""

    async def tries(state: dict[str, Any], completion: Any) -> float:
        assert len(state["trajectory"]) == state["turn"] == sum(m["role"] == "assistant" for m in completion)
        return float(len(state["guesses"])) + (completion[-1]["content"] == "yes")

    found = from_verifiers.opened(kind(ROWS, Rubric([tries], [1.0]), max_turns=3))
    assert found.options == {"max_turns": 3} and not found.tools
    assert found.environment is not None and found.environment.__name__ == f"{kind.__name__} (verifiers)"  # type: ignore[attr-defined]
    task = bound(real.tokenizer(), found.rows, environment_factory=found.environment, **found.options)
    prompt = next(p for p in task.prompts("train", 8, 0) if p.row["answer"] == "4")
    _, _, info = converse(task, prompt, ["3", "4"])
    assert [m["content"] for m in info["completion"]] == ["3", "no", "4", "yes"]
    lost = converse(task, prompt, ["1", "2", "3"])[2]
    judge = FunctionJudge.of(found.reward, found.weights)
    games = [Trajectory("p", 0, np.arange(2), np.arange(2) > 0, np.zeros(2, np.float32), 0, Finish.STOP, i) for i in (info, lost)]
    assert [s.value for s in judge.score(games)] == [3.0, 2.0 if kind is NewGuess else 3.0], "the new one was not asked at last"


@pytest.mark.slow
def test_measured_with_its_own_rubric() -> None:
    """A whole measurement: its rows, its rubric, a small real model."""
    (record,) = outdo.evaluate("smollm2", load_environment(), decode=["greedy"], max_new_tokens=4, max_prompt_tokens=64,
                               quiet=True, threads=1, dtype="fp32")  # fmt: skip
    assert record["n"] == 8 and set(record["items"]) <= {0.25, 1.25}, "a group of one has one completion"
    (other,) = outdo.evaluate("smollm2", load_environment(), lambda completions, **kwargs: [7.0] * len(completions),
                              decode=["greedy"], max_new_tokens=4, max_prompt_tokens=64, quiet=True, threads=1, dtype="fp32")
    assert set(other["items"]) == {7.0}, "a reward that is given goes first"


# --- v1 --------------------------------------------------------------------------------------------------------------


def mark(attribute: str, **more: Any) -> Callable[[Any], Any]:
    def decorate(f: Any) -> Any:
        for name, value in {attribute: True, **more}.items():
            setattr(f, name, value)
        return f

    return decorate


@dataclass
class Data:
    idx: int
    prompt: Any
    answer: int
    system_prompt: str | None = None


@dataclass
class Addition:
    data: Data
    config: Any = None

    @mark("reward", _vf_weight=1.0)
    async def exact(self, trace: Any) -> float:
        return float(trace.last_reply == str(self.data.answer))

    @mark("reward", _vf_weight=0.5)
    def keyed(self, trace: Any, task: Data) -> dict[str, float]:
        assert trace.task.data is task and trace.messages[-1].content == trace.last_message.content and trace.num_turns == 1
        return {"short": float(len(trace.last_reply) < 3), "said": float(bool(trace.last_reply))}

    @mark("metric")
    async def length(self, trace: Any) -> int:
        return len(trace.last_reply)


class Plain(Addition):
    async def exact(self, trace: Any) -> float:
        raise AssertionError("its override took the mark away")


class Taskset:
    INFINITE = False

    def __init__(self, tasks: list[Any]) -> None:
        self.config, self.tasks = None, tasks

    def load(self) -> list[Any]:
        return self.tasks

    def __iter__(self) -> Iterator[Any]:
        return iter(self.load())


def tasks(kind: type[Addition] = Addition) -> list[Any]:
    return [kind(Data(i, f"What is {i} + {i}?", 2 * i, "Be brief." if i else None)) for i in range(3)]


def test_tasksets() -> None:
    found = from_verifiers.opened(Taskset([*tasks(), Plain(Data(3, [{"role": "user", "content": "3?"}], 3))]))
    assert found.rows[1] == {"idx": 1, "answer": 2, "task_number": 1, "prompt": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]}  # fmt: skip
    judge = FunctionJudge.of(found.reward, found.weights)
    batch = [replied(found.rows[i], words) for i, words in ((1, " 2 "), (2, "five"), (0, ""), (3, "3"))]
    assert [s.value for s in judge.score(batch)] == [1.0 + 1.0, 0.5, 0.5, 1.0]
    assert judge.logged() == {"length": 1.5}


def test_what_outdo_does_not_have() -> None:
    endless = Taskset(tasks())
    endless.INFINITE = True

    class Sandboxed(Addition):
        @mark("reward")
        async def tested(self, trace: Any, runtime: Any) -> float:
            return 1.0

    class Served(Addition):
        @classmethod
        def toolsets(cls, config: Any) -> list[Any]:
            return ["search"]

    class Unpaid(Addition):
        exact = keyed = None  # type: ignore[assignment]

    opens = [replace(tasks()[0], data=Data(0, None, 1))]
    for taskset, message in ((endless, r"never ends; give taskset\.take\(n\)"), (Taskset([]), "has no tasks"),
                             (Taskset(tasks(Sandboxed)), r"Sandboxed\.tested takes a runtime"),
                             (Taskset(tasks(Served)), "brings tool servers"), (Taskset(opens), "task 0 .* has no prompt"),
                             (Taskset(tasks(Unpaid)), r"has no @vf\.reward methods")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            from_verifiers.opened(taskset)


def test_other_data_is_none_of_it() -> None:
    datasets = pytest.importorskip("datasets")
    for data in ("smollm2", [{"prompt": "x"}], datasets.Dataset.from_list([{"prompt": "x"}]), {"name": "chess_endgame"}):
        assert not from_verifiers.is_one(data)
