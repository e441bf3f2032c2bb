"""Environments of verifiers, told by what they are made of: the package itself is not needed.

Legacy environments (load_environment() -> SingleTurnEnv, ToolEnv, MultiTurnEnv) give their dataset, their rubric, and their
Python tools or their answers (`env_response`). v1 tasksets give the data of their tasks, and the methods that `@vf.reward` and
`@vf.metric` mark, called with a stand-in for the trace. What takes sandboxes, tool servers or other agents is refused by name.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from outdo.errors import check
from outdo.interop.partners import Messages, Partner

_OWN_STATE = ("input", "prompt", "completion", "responses", "timing")  # of a conversation's state, known otherwise or of no use
_OF_STEPS = ("response", "tokens", "reward", "advantage")  # of a turn, as far as the environment does not set them
_PLAIN = ("SingleTurnEnv", "ToolEnv", "MultiTurnEnv")  # whose own methods do nothing else than outdo
_WHOLE = ("get_prompt_messages", "add_model_response", "add_trajectory_step", "render_completion", "rollout")
_HIDDEN = ("system_prompt", "timeout", "resources", "network_allow", "network_block", "artifacts", "image", "workdir")


class Opened(NamedTuple):
    """What `outdo.reinforce` takes. options: of task dataset."""

    rows: list[dict[str, Any]]
    reward: list[Any]
    weights: list[float]
    tools: list[Callable[..., Any]]
    environment: Callable[[], Any] | None  # makes the partner that answers in the environment's words
    options: dict[str, Any]


def is_one(what: Any) -> bool:
    """Whether it is an environment or a taskset of verifiers."""
    return _is_legacy(what) or _is_taskset(what)


def opened(what: Any) -> Opened:
    """Its rows, rewards and tools. Raises UserError for what outdo cannot run."""
    return _taskset(what) if _is_taskset(what) else _legacy(what)


def _is_legacy(what: Any) -> bool:
    rubric = getattr(what, "rubric", None)
    paid = any(hasattr(rubric, n) for n in ("funcs", "reward_funcs", "rubrics"))  # reward_funcs: in 0.1.5
    return paid and (hasattr(what, "get_dataset") or hasattr(what, "dataset"))


def _is_taskset(what: Any) -> bool:
    return callable(getattr(what, "load", None)) and hasattr(what, "config") and isinstance(what, Iterable)


# --- legacy ----------------------------------------------------------------------------------------------------------


def _legacy(env: Any) -> Opened:
    name, tools = type(env).__name__, list(getattr(env, "tools", None) or [])
    turns = getattr(env, "max_turns", -1)
    speaks = _speaks(env)
    check(not (speaks and tools), f"verifiers environment {name} has tools and an env_response of its own, which reads calls as "
          "an API gives them; give its tools, or write it as an environment_factory")
    check(_defines(env, "env_response") != "MultiTurnEnv", f"verifiers environment {name} has no env_response, so nobody answers")
    own = [m for m in _WHOLE if _defines(env, m) not in (None, "Environment", *_PLAIN)]
    several = any(map(_speaks, getattr(env, "envs", ())))
    check(not own and not several and getattr(env, "message_type", "chat") == "chat",
          f"verifiers environment {name} " + (f"has its own {', '.join(own)}" if own else "groups some that answer" if several
          else "completes plain text") + "; outdo runs chats of one environment, message after message")
    dataset: Any = env.get_dataset() if hasattr(env, "get_dataset") else env.dataset
    dataset = dataset if dataset is not None else getattr(env, "eval_dataset", None)
    check(dataset is not None, f"verifiers environment {name} has no dataset")
    rows = [{**row, "info": _parsed(row["info"])} if "info" in row else dict(row) for row in dataset]
    answers: Callable[[], Any] | None = None
    if speaks:
        answers = partial(Answers, env)
        answers.__name__ = f"{name} (verifiers)"  # type: ignore[attr-defined]
    return Opened(rows, [env.rubric], [1.0], tools, answers, {"max_turns": turns} if (tools or answers) and turns > 0 else {})


def _defines(env: Any, method: str) -> str | None:
    """The name of the class that a method comes from."""
    return next((k.__name__ for k in type(env).__mro__ if method in vars(k)), None)


def _speaks(env: Any) -> bool:
    """Whether it has an env_response of its own."""
    return _defines(env, "env_response") not in (None, *_PLAIN)


class Message(dict[str, Any]):
    """A message as a mapping, and as an object with attributes, which newer environments read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)


class Answers(Partner):
    """`env_response` as a partner. What it keeps in its state reaches the rubric's functions as far as JSON can hold it.

    setup_state, is_completed or the methods marked `@vf.stop`, and final_env_response are asked as verifiers asks them; there
    is no client and no model to be found in the state.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._state, self._turns = env, dict[str, Any](), 0
        complete = getattr(env, "is_completed", None)
        self._complete = complete if complete and "messages" in inspect.signature(complete).parameters else None  # until 0.1.7
        stops = [m for _, m in inspect.getmembers(env, inspect.ismethod) if getattr(m, "stop", False)]
        self._stops = sorted(stops, key=lambda m: (-getattr(m, "stop_priority", 0), m.__name__))

    def reset(self, **row: Any) -> None:
        """See `Partner.reset`. The state is set up with the first reply."""
        row = copy.deepcopy(row)  # the other samples of the prompt begin with the same one
        columns = {k: row.get(k, default) for k, default in (("answer", ""), ("task", "default"), ("info", {}))}
        self._state = {**columns, "input": row, "example_id": row.get("example_id", 0), "completion": [], "responses": [],
                       "trajectory": [], "timing": SimpleNamespace(), "error": None, "final_env_response": None,
                       "is_completed": False, "is_truncated": False, "stop_condition": None}
        if self._complete:
            self._state["turn"] = 0

    def respond(self, messages: Messages) -> Any:
        """See `Partner.respond`. Raises what the environment raises, or keeps as the state's error."""
        return self._respond([Message(m) for m in messages])

    async def _respond(self, messages: list[Message]) -> Any:
        if not self._turns:
            prompt = self._state["prompt"] = messages[:-1]
            setup = getattr(self._env, "setup_state", None)
            self._state = (await _maybe(setup(self._state)) if setup else None) or self._state
            check(self._state["prompt"] == prompt, "setup_state changes the prompt; put the words into the data")
        state, self._turns = self._state, self._turns + 1
        if self._complete:
            state["turn"] += 1
        state["completion"] = messages[len(state["prompt"]) :]
        state["trajectory"].append({"prompt": messages[:-1], "completion": messages[-1:], **dict.fromkeys(_OF_STEPS),
                                    "is_truncated": False, "trajectory_id": "", "extras": {}})
        self.done = await self._over(messages)
        given = None if self.done else await _maybe(self._env.env_response(messages, state))
        if isinstance(given, tuple):  # until 0.1.7, which also asks again at once
            given, self._state = given
            self.done = await self._over([*messages, *map(Message, given)])
        check(not self._state.get("error"), str(self._state.get("error")))
        final = self._state.get("final_env_response")
        self.done = self.done or final is not None
        return given if final is None else final

    async def _over(self, messages: list[Message]) -> bool:
        if self._complete:
            return bool(await _maybe(self._complete(messages, self._state)))
        for stop in self._stops:
            if await _maybe(stop(self._state)):
                self._state |= {"is_completed": True, "stop_condition": stop.__name__}
                return True
        return False

    def facts(self) -> dict[str, Any]:
        """See `Partner.facts`."""
        steps = [{k: v for k, v in s.items() if k != "prompt"} if isinstance(s, dict) else s for s in self._state["trajectory"]]
        return {**{k: v for k, v in self._state.items() if k not in _OWN_STATE}, "trajectory": steps}


async def _maybe(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _parsed(info: Any) -> Any:
    """`info` may be JSON in a string, so that rows of different keys fit into one table."""
    try:
        return json.loads(info) if isinstance(info, str) and info else info
    except json.JSONDecodeError:
        return info


# --- v1 --------------------------------------------------------------------------------------------------------------


class Trace:
    """What `@vf.reward` methods read of a trace: the messages of one conversation."""

    def __init__(self, task: Any, prompt: Any, completion: Any, number: int) -> None:
        asked, said = ([SimpleNamespace(**{"content": "", **m}) for m in messages] for messages in (prompt, completion))
        self.messages = [*asked, *said]
        self.assistant_messages = [m for m in said if m.role == "assistant"]
        self.tool_messages = [m for m in said if m.role == "tool"]
        self.last_message, self.num_turns = self.messages[-1], len(self.assistant_messages)
        self.last_reply = str(self.assistant_messages[-1].content or "").strip() if self.assistant_messages else ""
        self.transcript = "\n".join(f"{m.role}: {m.content}" for m in self.messages)
        self.task = SimpleNamespace(type=type(task).__name__, data=task.data)
        self.id, self.is_truncated, self.stop_condition = str(number), False, None
        self.info, self.rewards, self.metrics = dict[str, Any](), dict[str, float](), dict[str, float]()
        self.state, self.errors, self.last_error = SimpleNamespace(), list[Any](), None


def _taskset(taskset: Any) -> Opened:
    name = type(taskset).__name__
    bounded = getattr(taskset, "bounded", not getattr(taskset, "INFINITE", False))
    check(bounded, f"verifiers taskset {name} never ends; give taskset.take(n)")
    tasks = list(taskset)
    check(bool(tasks), f"verifiers taskset {name} has no tasks")
    for owner in (taskset, tasks[0]):
        servers = owner.toolsets(owner.config) if hasattr(owner, "toolsets") else []
        check(not servers, f"verifiers taskset {name} brings tool servers, which outdo does not start; give tools = functions")
    hooks = [{mark: _marked(task, mark) for mark in ("reward", "metric")} for task in tasks]
    weights: dict[str, float] = {}
    for found in hooks:
        weights |= dict.fromkeys(found["metric"], 0.0)
        weights |= {n: float(getattr(f, "_vf_weight", 1.0)) for n, f in found["reward"].items()}
    check(any(weights.values()), f"verifiers taskset {name} has no @vf.reward methods, so nothing says what is good")
    methods = [found["metric"] | found["reward"] for found in hooks]
    return Opened([_row(task, i, name) for i, task in enumerate(tasks)], [_scorer(n, tasks, methods) for n in weights],
                  list(weights.values()), [], None, {})


def _marked(task: Any, mark: str) -> dict[str, Callable[..., Any]]:
    """The task's methods that a decorator marked; an override without the decorator takes the mark away."""
    names = dict.fromkeys(n for k in type(task).__mro__ for n, f in vars(k).items() if callable(f) and hasattr(f, mark))
    out = {n: getattr(task, n) for n in sorted(names) if hasattr(getattr(task, n), mark)}
    for name, method in out.items():
        wanted = inspect.signature(method).parameters.get("runtime")
        check(wanted is None or wanted.default is not wanted.empty, f"verifiers task {type(task).__name__}.{name} takes a "
              "runtime (a sandbox), which outdo does not have")
    return out


def _scorer(name: str, tasks: Sequence[Any], methods: Sequence[Mapping[str, Callable[..., Any]]]) -> Callable[..., Any]:
    """A function of one sample, which verifiers' legacy signature describes, that asks the row's own task."""

    async def score(prompt: Any, completion: Any, task_number: int) -> float | None:
        method = methods[task_number].get(name)
        if method is None:
            return None
        task = tasks[task_number]
        known = {"trace": Trace(task, prompt, completion, task_number), "task": task.data, "runtime": None}
        value = await _maybe(method(**{k: v for k, v in known.items() if k in inspect.signature(method).parameters}))
        return sum(map(float, value.values())) if isinstance(value, Mapping) else value

    score.__name__ = name
    return score


def _row(task: Any, i: int, taskset: str) -> dict[str, Any]:
    data = task.data
    pydantic = hasattr(data, "model_dump")
    columns: dict[str, Any] = data.model_dump(mode="json", exclude_defaults=True) if pydantic else dict(vars(data))
    prompt: Any = columns.get("prompt")
    system = columns.get("system_prompt")
    check(bool(prompt), f"task {i} of verifiers taskset {taskset} has no prompt; outdo has nobody who opens the conversation")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    before = [{"role": "system", "content": system}] if system else []
    return {**{k: v for k, v in columns.items() if k not in _HIDDEN}, "prompt": [*before, *messages], "task_number": i}
