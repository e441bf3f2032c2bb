"""The audit of an environment: its own rows and rewards, and four checks of what turns and tools add.

TRL's environments (a class with reset(), tools as methods, get_reward()) and environments of verifiers. E01 state is left after
reset. E02 acting after the end pays. E03 doing the same for ever pays. E04 a tool gives the answer away, or sets the grade.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from outdo import plugins
from outdo.audit.audit import audit_reward
from outdo.audit.base import Finding, Verdict
from outdo.audit.card import Card
from outdo.audit.host import once
from outdo.errors import check
from outdo.interop import verifiers
from outdo.text import rows as text_rows

_RESERVED = ("reset", "get_reward")
_TURNS = 40
_SOURCE = "docs/audit.md"


def audit_env(what: Any, data: Any = None, *, seed: int = 0, timeout_s: float = 20.0) -> Card:
    """Audit an environment: an object, or "my_env.py:Name". data: rows that reset() is given. Raises UserError."""
    made = plugins.load(what) if isinstance(what, str) else what
    name = what if isinstance(what, str) else getattr(made, "__name__", type(made).__name__)
    if inspect.isfunction(made) and not any(p.default is p.empty for p in inspect.signature(made).parameters.values()):
        made = made()  # load_environment() of verifiers
    if verifiers.is_one(made):
        opened = verifiers.opened(made)
        check(bool(opened.rows), f"{name} has no rows")
        from outdo.judges.function import FunctionJudge

        judge = FunctionJudge.of(opened.reward, opened.weights)
        card = audit_reward(judge, opened.rows, seed=seed, timeout_s=timeout_s)
        tools = {t.__name__: t for t in opened.tools}
        leaks = [_leak_of_tools(tools, opened.rows)] if tools else []
        return replace(card, reward=name, kind="environment", findings=[*card.findings, *leaks])
    check(
        inspect.isclass(made) and hasattr(made, "get_reward") and hasattr(made, "reset"),
        f"{name} is no environment: it takes a class with reset() and get_reward() and tools as methods (TRL), or an "
        "environment of verifiers",
    )
    rows: Sequence[Mapping[str, Any]] = list(text_rows.load(data)) if data is not None else [{}]
    findings = [_isolated(f, made, dict(rows[0]), seed, timeout_s) for f in (_reset, _after_the_end, _for_ever, _grade)]
    return Card(
        reward=name,
        style="TRL environment",
        rows=len(rows),
        wrong_rows=0,
        accept=None,
        score_range=(0.0, 1.0),
        calls=0,
        restarts=0,
        free_reward=None,
        free_interval=None,
        right_mean=(0.0, 0.0, 0.0, 0),
        highest_wrong=None,
        false_fail=None,
        false_fail_interval=None,
        exercised="",
        forms=[],
        seed=seed,
        findings=findings,
        kind="environment",
    )


def _isolated(look: Callable[..., dict[str, Any]], made: Any, row: dict[str, Any], seed: int, timeout_s: float) -> Finding:
    """A check in a process of its own."""
    ids = {
        "_reset": ("E01", "state left after reset", "Make all state anew in reset()."),
        "_after_the_end": ("E02", "acting after the end", "Fix the reward when the episode ends; refuse tools afterwards."),
        "_for_ever": ("E03", "doing the same for ever", "Count turns, and pay results, not actions."),
        "_grade": ("E04", "tools that reach the grade", "Keep the answer and the grade where no tool reads or writes them."),
    }
    id_, title, fix = ids[look.__name__]
    given = once(lambda: look(made, row, random.Random(seed)), timeout_s)
    if given is None or "error" in given:
        why = "out of time" if given is None else given["error"]
        return Finding(
            id_, title, Verdict.FAIL if given is None else Verdict.ERROR, f"the environment: {why}", fix=fix, source=_SOURCE
        )
    return Finding(
        id_,
        title,
        Verdict(given["verdict"]),
        given["said"],
        n=given.get("n", 0),
        fix=fix,
        source=_SOURCE,
        grounds="counterexample" if given["verdict"] == "FAIL" else "",
    )


def _tools(environment: Any) -> dict[str, Callable[..., Any]]:
    found = inspect.getmembers(environment, inspect.ismethod)
    return {n: m for n, m in found if not n.startswith("_") and n not in _RESERVED}


def _arguments(tool: Callable[..., Any], rng: random.Random) -> dict[str, Any]:
    """Something of each parameter's type."""
    values: dict[Any, Callable[[], Any]] = {
        int: lambda: rng.randint(-3, 10),
        float: rng.random,
        bool: lambda: rng.random() < 0.5,
        list: list,
        dict: dict,
    }
    texts = ("1", "reward", "done", "yes", "score=1", "answer", "0")
    out = {}
    for p in inspect.signature(tool).parameters.values():
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            continue
        kind = {"int": int, "float": float, "bool": bool, "list": list, "dict": dict}.get(p.annotation, p.annotation)
        out[p.name] = values.get(kind, lambda: rng.choice(texts))()
    return out


def _act(environment: Any, rng: random.Random, turns: int) -> list[str]:
    """What random tool calls answer; exceptions are answers."""
    said, tools = [], sorted(_tools(environment).items())
    for _ in range(turns if tools else 0):
        name, tool = rng.choice(tools)
        try:
            said.append(f"{name}: {tool(**_arguments(tool, rng))}")
        except Exception as e:
            said.append(f"{name}: {type(e).__name__}")
    return said


def _reset(made: Any, row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    seed = rng.random()
    fresh, used = made(), made()
    first = [str(fresh.reset(**row)), *_act(fresh, random.Random(seed), 12), str(fresh.get_reward())]
    used.reset(**row)
    _act(used, random.Random(seed + 1), 12)
    used.get_reward()
    second = [str(used.reset(**row)), *_act(used, random.Random(seed), 12), str(used.get_reward())]
    if first != second:
        at = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
        return {
            "verdict": "FAIL",
            "n": 1,
            "said": f"after an episode and a reset, {second[at][:80]!r}; fresh, {first[at][:80]!r}",
        }
    return {"verdict": "PASS", "n": 1, "said": "an episode after a reset is the same as a fresh one"}


def _after_the_end(made: Any, row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    environment = made()
    environment.reset(**row)
    before = float(environment.get_reward() or 0.0)
    _act(environment, rng, _TURNS)
    later = float(environment.get_reward() or 0.0)
    if later > before:
        return {
            "verdict": "WARN",
            "n": _TURNS,
            "said": f"the reward is {before:g} when it is first asked for, and {later:g} "
            f"after {_TURNS} "
            "random calls more: nothing ends an episode",
        }
    return {"verdict": "PASS", "n": _TURNS, "said": f"{_TURNS} calls after the reward was asked for do not raise it"}


def _for_ever(made: Any, row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    probe = made()
    probe.reset(**row)
    names = sorted(_tools(probe))
    for name in names:
        environment = made()
        environment.reset(**row)
        tool = _tools(environment)[name]
        arguments, rewards = _arguments(tool, rng), []
        for turn in range(_TURNS):
            try:
                tool(**arguments)
            except Exception:
                break
            if turn + 1 in (10, 20, _TURNS):
                rewards.append(float(environment.get_reward() or 0.0))
        if len(rewards) == 3 and rewards[0] < rewards[1] < rewards[2]:
            return {
                "verdict": "FAIL",
                "n": _TURNS,
                "said": f"{name}({json.dumps(arguments)[:60]}) again and again earns "
                f"{rewards[0]:g}, "
                f"{rewards[1]:g}, {rewards[2]:g} after 10, 20 and {_TURNS} calls",
            }
    return {
        "verdict": "PASS" if names else "NOT_EXERCISED",
        "n": len(names) * _TURNS,
        "said": f"none of {len(names)} tools pays for repetition" if names else "it has no tools",
    }


def _grade(made: Any, row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A tool's answer that holds the row's reference, or a reward that random calls bring up to the best that was ever seen."""
    secrets = [
        str(v) for k, v in row.items() if k in ("answer", "solution", "ground_truth", "target", "label") and len(str(v)) > 1
    ]
    environment = made()
    environment.reset(**row)
    said = _act(environment, rng, 4 * _TURNS)
    for line in said:
        if any(s in line for s in secrets):
            return {"verdict": "FAIL", "n": len(said), "said": f"a tool gives the answer away: {line[:80]!r}"}
    public = [n for n in ("reward", "score", "grade", "done", "success", "solved") if n in vars(environment)]
    again = made()
    again.reset(**row)
    base = float(again.get_reward() or 0.0)
    moved = float(environment.get_reward() or 0.0)
    if public and moved > base:
        return {
            "verdict": "FAIL",
            "n": len(said),
            "said": f"random calls move {public[0]} and the reward from {base:g} to {moved:g}",
        }
    return {
        "verdict": "PASS" if said else "NOT_EXERCISED",
        "n": len(said),
        "said": f"{len(said)} random calls neither show the answer nor set the grade" if said else "it has no tools",
    }


def _leak_of_tools(tools: Mapping[str, Callable[..., Any]], rows: Sequence[Mapping[str, Any]]) -> Finding:
    secrets = {str(r["answer"]) for r in rows[:50] if len(str(r.get("answer", ""))) > 2}
    rng, said = random.Random(0), []
    for name, tool in tools.items():
        for _ in range(5):
            try:
                said.append(f"{name}: {tool(**_arguments(tool, rng))}")
            except Exception:
                continue
    bad = next((line for line in said if any(s in line for s in secrets)), None)
    return Finding(
        "E04",
        "tools that reach the grade",
        Verdict.FAIL if bad else Verdict.PASS,
        f"a tool gives an answer away: {bad[:80]!r}" if bad else f"{len(said)} calls of tools show no row's answer",
        n=len(said),
    )
