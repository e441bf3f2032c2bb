"""Environments of verifiers, written as its users write them against stand-ins of its classes: the package is not installed.

The stand-ins hold what verifiers 0.1.5 (legacy) and 0.4.0 (v1) have under these names.

    pytest tests/test_from_verifiers.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import real
from talk import bound, converse

import outdo
from outdo.errors import UserError
from outdo.evaluation.measure import part_means
from outdo.interop import verifiers as from_verifiers
from outdo.judges.function import FunctionJudge
from outdo.types import Finish, Trajectory


def replied(row: dict[str, Any], words: str) -> Trajectory:
    said = {**row, "completion": [{"role": "assistant", "content": words}]}
    return Trajectory("p/0", 0, np.arange(4), np.arange(4) > 1, np.zeros(4, np.float32), 0, Finish.STOP, said)


def mark(attribute: str, **more: Any) -> Callable[[Any], Any]:
    def decorate(f: Any) -> Any:
        for name, value in {attribute: True, **more}.items():
            setattr(f, name, value)
        return f

    return decorate


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
    assert [s.value for s in scores] == [1.5, 0.5] and part_means(scores)["level"] == 3.0


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
        assert [m["role"] for m in state["completion"]] == ["assistant", "user"] * (len(state["trajectory"]) - 1) + ["assistant"]
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
        n = len(state["trajectory"])
        assert n == sum(m["role"] == "assistant" for m in completion) == state.get("turn", n)
        assert [step["extras"] for step in state["trajectory"]] == [{}] * len(state["trajectory"])
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


def play(env: Any, replies: Sequence[str], row: int = 2) -> dict[str, Any]:
    """What became of a conversation in which the policy says this, and the environment's own functions' score of it."""
    found = from_verifiers.opened(env)
    task = bound(real.tokenizer(), found.rows, environment_factory=found.environment, **{"max_turns": 4, **found.options})
    prompt = next(p for p in task.prompts("train", 8, 0) if p.row["answer"] == str(2 * row))
    _, _, info = converse(task, prompt, replies)
    over = Trajectory("p", 0, np.arange(2), np.arange(2) > 0, np.zeros(2, np.float32), 0, Finish.STOP, info)
    (score,) = FunctionJudge.of(found.reward, found.weights).score([over])
    return {**info, "score": score}


class Asks(SingleTurnEnv):
    """Answers once, and keeps what a test gives it to keep."""

    def __init__(self, keep: Callable[[dict[str, Any]], Any], paid: Callable[..., float] | None = None) -> None:
        super().__init__(ROWS, Rubric([paid or (lambda state, **kwargs: 1.0)], [1.0]), max_turns=2)
        self.keep = keep

    async def env_response(self, messages: Any, state: dict[str, Any], **kwargs: Any) -> Any:
        self.keep(state)
        state["final_env_response"] = [{"role": "user", "content": "Thanks."}]
        return []


def test_what_an_environment_keeps_reaches_its_rubric() -> None:
    def steps(state: dict[str, Any], **kwargs: Any) -> float:
        return sum(step.get("reward") or 0.0 for step in state["trajectory"])

    def told(info: dict[str, Any], answer: str, state: dict[str, Any], **kwargs: Any) -> float:
        return float(info.get("found", 0)) + (answer == state["answer"] == "secret") + len(state["seen"])

    assert play(Asks(lambda state: state["trajectory"][-1].update(reward=0.25), steps), ["4"])["score"].value == 0.25

    def keep(state: dict[str, Any]) -> None:
        state["info"]["found"] = state["info"].get("found", 0) + 1
        state |= {"answer": "secret", "seen": set(), "board": {(0, 0): "X"}}

    for _ in range(2):  # a sibling of the same row: nothing is left of the first
        assert play(Asks(keep, told), ["4"])["score"].value == 2.0
    assert "found" not in ROWS[2]["info"]


def test_stops_are_asked_by_priority_until_one_holds() -> None:
    def stop(priority: int, holds: bool) -> Callable[..., Any]:
        async def condition(self: Any, state: dict[str, Any]) -> bool:
            state.setdefault("asked", []).append(priority)
            return holds

        return mark("stop", stop_priority=priority)(condition)

    conditions = {"a": stop(0, True), "b": stop(5, True), "c": stop(9, False), "is_completed": None}
    env = type("Stops", (Asks,), conditions)
    info = play(env(lambda state: None, lambda state, **kwargs: float(state["stop_condition"] == "condition")), ["4"])
    assert info["environment_state"]["asked"] == [9, 5] and info["score"].value == 1.0 and len(info["completion"]) == 1


def test_environments_that_break_have_no_score() -> None:
    class Changes(Asks):
        def setup_state(self, state: dict[str, Any]) -> None:
            state["prompt"] = [{"role": "user", "content": "Something else?"}]

    for env, why in ((Asks(lambda state: state.update(error="no sandbox")), "no sandbox"),
                     (Asks(lambda state: state["nothing"]), "KeyError: 'nothing'"),
                     (Changes(lambda state: None), "setup_state changes the prompt")):  # fmt: skip
        score = play(env, ["4"])["score"]
        assert score.value is None and f"the environment broke: {why}" in score.reason


def test_environments_with_a_loop_of_their_own() -> None:
    looping = type("Looping", (Asks,), {"rollout": lambda self: None})(lambda state: None)
    plain = Asks(lambda state: None)
    plain.message_type = "completion"
    group = SingleTurnEnv(ROWS, Rubric([], []))
    group.envs = [Asks(lambda state: None)]
    for env, why in ((looping, "Looping has its own rollout"), (plain, "completes plain text"), (group, "groups some that")):
        with pytest.raises(UserError, match=why):
            from_verifiers.opened(env)
    endless = Asks(lambda state: None)
    endless.max_turns = -1
    with pytest.raises(UserError, match="environment Asks sets no limit to its turns, and a context has one; give max_turns"):
        outdo.evaluate("smollm2", endless, quiet=True)


# --- v1 --------------------------------------------------------------------------------------------------------------


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
    scores = judge.score(batch)
    assert [s.value for s in scores] == [1.0 + 1.0, 0.5, 0.5, 1.0] and part_means(scores)["length"] == 1.5


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
