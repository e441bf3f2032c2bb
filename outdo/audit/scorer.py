"""Calls a reward as the tool that it was written for would: TRL, verl, verifiers, OpenRLHF, `score(answer, reference)`,
reasoning-gym's scorers, outdo's judges. This side runs in the process of the reward that is audited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from outdo import plugins
from outdo.audit.base import Case
from outdo.errors import UserError, check
from outdo.judges.base import Judge, make_judge
from outdo.judges.functions.signatures import Log, Reward, of_rubric
from outdo.plugins import Plugin
from outdo.types import Finish, Score, Trajectory

_REFERENCES = ("reference", "answer", "ground_truth", "gold", "target", "label", "solution", "expected", "entry", "truth")
_ANSWERS = (
    "answer",
    "prediction",
    "response",
    "completion",
    "output",
    "text",
    "pred",
    "solution_str",
    "candidate",
    "model_output",
)


@dataclass(frozen=True)
class Scorer:
    """values(cases) -> what the reward gave, one each."""

    name: str
    style: str  # which tool's signature
    values: Callable[[Sequence[Case]], list[Any]]
    batched: bool = False  # it sees several samples in one call
    grouped: bool = False  # it compares the samples of a prompt: scores may depend on the others
    why: Callable[[Case], str] = lambda case: ""  # for judges: the reason of the last None
    parts: Callable[[Case], dict[str, float | None]] = lambda case: {}  # the last score's


def load(what: str) -> Any:
    """`my_rewards.py:fn`, `package.module:name`, a judge's name, or a judge as a recipe has it: `{name = ..., ...}`."""
    if what.lstrip().startswith("{") or what in plugins.names("judges"):
        import tomllib

        try:
            options = tomllib.loads(f"j = {what}")["j"] if what.lstrip().startswith("{") else {"name": what}
        except tomllib.TOMLDecodeError as e:
            raise UserError(f"judge {what!r} is not valid TOML: {e}") from None
        return make_judge(Plugin(**options))
    found = plugins.load(what)
    if inspect.isclass(found) and issubclass(found, Judge):
        return found()
    return found


def scorer(what: Any) -> Scorer:
    """How to call it, read off what it is. Raises UserError where no tool would know."""
    if isinstance(what, Judge):
        return _of_judge(what)
    if rubric := of_rubric(what):
        return _of_rubric(what, rubric)
    name = getattr(what, "__name__", type(what).__name__)
    if hasattr(what, "score_answer"):  # a reasoning-gym data set
        return Scorer(
            type(what).__name__, "reasoning-gym", lambda cases: [what.score_answer(c.completion, _entry(c)) for c in cases]
        )
    check(callable(what), f"{name!r} is {type(what).__name__}, which cannot be called; give a function or a judge")
    try:
        reward = Reward.of(what)
    except (UserError, ValueError, TypeError):
        return _of_two(what, name)
    two = _plain_two(what)
    if two and reward.style == "verifiers" and "completion" not in reward.named:
        return _of_two(what, name)

    def values(cases: Sequence[Case]) -> list[Any]:
        some = [trajectory(c) for c in cases]
        if reward.batched:
            given = what(**reward.arguments(some, Log()))
            return _listed(given, len(cases), name)
        return [_single(what(**reward.arguments([t], Log()))) for t in some]

    return Scorer(name, reward.style, values, reward.batched, reward.grouped)


def _of_judge(judge: Judge) -> Scorer:
    said: dict[int, Score] = {}

    def values(cases: Sequence[Case]) -> list[Any]:
        scores = judge.score([trajectory(c) for c in cases])
        said.update({id(c): s for c, s in zip(cases, scores, strict=True)})
        return [s.value for s in scores]

    grouped = getattr(judge.config, "mode", "points") != "points"
    return Scorer(judge.name, "outdo judge", values, True, grouped, lambda c: said[id(c)].reason if id(c) in said else "",
                  lambda c: dict(said[id(c)].parts) if id(c) in said else {})


def _of_rubric(rubric: Any, functions: Sequence[tuple[Reward, float]]) -> Scorer:
    def values(cases: Sequence[Case]) -> list[Any]:
        out = []
        for c in cases:
            parts = [w * float(_single(r.function(**r.arguments([trajectory(c)], Log())))) for r, w in functions]
            out.append(sum(parts))
        return out

    return Scorer(type(rubric).__name__, "verifiers rubric", values)


def _plain_two(what: Any) -> list[str]:
    """The names of its two required parameters, if it has just two."""
    parameters = inspect.signature(what).parameters.values()
    names = [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return names if len(names) == 2 else []


def _of_two(what: Any, name: str) -> Scorer:
    """score(answer, reference), whatever the two are called."""
    names = _plain_two(what)
    if not names:
        raise UserError(
            f"{name}{inspect.signature(what)} fits no signature that is known: TRL (completions, **kwargs), verl "
            "(solution_str, ground_truth, ...), verifiers (completion, answer, ...), OpenRLHF (queries, prompts, "
            "labels) or two parameters (answer, reference)"
        )
    turned = names[0] in ("reference", "ground_truth", "gold", "target", "label", "expected", "truth") and names[1] in _ANSWERS
    entry = names[1] in ("entry", "item", "row", "example", "sample")

    def values(cases: Sequence[Case]) -> list[Any]:
        out = []
        for c in cases:
            second = _entry(c) if entry else c.told
            out.append(_single(what(second, c.completion) if turned else what(c.completion, second)))
        return out

    return Scorer(name, f"{names[0]}, {names[1]}", values)


def _entry(c: Case) -> dict[str, Any]:
    """reasoning-gym's: question, answer, metadata."""
    return {"question": c.prompt, "answer": c.told, "metadata": {}, **c.row}


def _single(given: Any) -> Any:
    if inspect.iscoroutine(given):
        import asyncio

        given = asyncio.run(given)
    if isinstance(given, Mapping):
        given = given.get("score", given.get("reward", given.get("rewards")))
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    return given


def _listed(given: Any, n: int, name: str) -> list[Any]:
    if isinstance(given, Mapping):
        given = given.get("rewards", given.get("scores", given.get("score")))
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, list | tuple) or len(given) != n:
        raise ValueError(f"{name} returned {type(given).__name__} for {n} completions; a list of {n} numbers is wanted")
    return list(given)


def number(value: Any) -> tuple[float | None, str]:
    """A finite float, or None and why."""
    if value is None:
        return None, ""
    try:
        plain = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None, f"returned {type(value).__name__}, which is no number"
    if isinstance(value, str):
        return None, "returned str, which is no number"
    return (plain, "") if np.isfinite(plain) else (None, f"returned {plain}")


def trajectory(c: Case) -> Trajectory:
    """As judges and reward functions have it. The tokens are the completion's bytes."""
    ids = np.frombuffer(("·" + c.completion).encode("utf-8", errors="replace"), np.uint8).astype(np.int64)
    mask = np.arange(len(ids)) >= 2
    said: Any = [{"role": "assistant", "content": c.completion}] if c.chat else c.completion
    return Trajectory(
        f"data/{c.group}",
        0,
        ids,
        mask,
        np.zeros(len(ids), np.float32),
        0,
        Finish.STOP,
        {**c.row, "prompt": c.prompt, "completion": said},
    )
