"""What users of other tools hand over to `outdo.api`, as rewards, tools and environments that outdo takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from outdo import plugins
from outdo.errors import check
from outdo.interop import openrlhf as from_openrlhf
from outdo.interop import verifiers as from_verifiers
from outdo.judges.base import Judge
from outdo.judges.function import FunctionJudge
from outdo.models import fetch
from outdo.tasks.text.tools import made

# Functions and reward models, each as an object or as "my_rewards.py:name", folder or hub id; a judge by its name, its table with
# a "name", or the object.
Reward = str | Callable[..., Any] | Judge | Mapping[str, Any] | Sequence[str | Callable[..., Any] | Judge]
Tool = str | Callable[..., Any]
Environments = Tool | Mapping[str, Tool]  # one for all rows, or several by name, chosen by the column `environment`


def unpacked(dataset: Any, reward: Reward | None, weights: Sequence[float], tools: Sequence[Tool],
             environment: Environments | None, max_turns: int | None = None, max_tool_tokens: int | None = None,
             ) -> tuple[Any, Reward | None, Sequence[float], Sequence[Tool], Environments | None, dict[str, Any]]:  # fmt: skip
    """Rows, rewards, tools and answers of an environment of verifiers; all else as it is. What one gives oneself goes first."""
    limits = {k: v for k, v in (("max_turns", max_turns), ("max_tool_tokens", max_tool_tokens)) if v is not None}
    if not from_verifiers.is_one(dataset):
        return dataset, reward, weights, tools, environment, limits
    found = from_verifiers.opened(dataset)
    if reward is None:
        reward, weights = found.reward, found.weights
    options = {**found.options, **limits}
    check(found.environment is None or "max_turns" in options, f"verifiers environment {type(dataset).__name__} sets no limit "
          "to its turns, and a context has one; give max_turns = how many replies")
    return found.rows, reward, weights, [*tools, *found.tools], environment or found.environment, options


def environments(environment: Environments | None) -> list[Tool]:
    """One or several, as a list."""
    return list(environment.values()) if isinstance(environment, Mapping) else [environment] if environment else []


def with_own(reward: Reward | None, weights: Sequence[float], environment: Environments | None,
             ) -> tuple[Reward | None, Sequence[float]]:  # fmt: skip
    """The reward, and beside it, with weight 1 as in TRL, what environments with a `get_reward` pay themselves."""
    factories = [from_openrlhf.adapted(plugins.load(e) if isinstance(e, str) else e) for e in environments(environment)]
    if not any(hasattr(f if inspect.isclass(f) else made(f), "get_reward") for f in factories):
        return reward, weights
    own = "outdo.rewards:environment_reward"
    entries = [] if reward is None else list(reward) if several(reward) else [reward]
    if own in entries or any(isinstance(r, Mapping) or r in plugins.names("judges") for r in entries):
        return reward, weights
    return [*entries, own], [*(weights or [1.0] * len(entries)), 1.0]


def several(reward: Reward) -> TypeGuard[Sequence[str | Callable[..., Any] | Judge]]:
    """Whether it is a list of rewards."""
    return isinstance(reward, Sequence) and not isinstance(reward, str)


def judge(reward: Reward, weights: Sequence[float]) -> tuple[dict[str, Any], Judge | None]:
    """A judge's table for the recipe, and the object if the table is not enough to make it."""
    if isinstance(reward, Judge):
        return {**reward.config.model_dump(mode="json", exclude_none=True), "name": reward.name}, reward
    if isinstance(reward, Mapping):
        return dict(reward), None
    if isinstance(reward, str) and (reward in plugins.names("judges") or not (":" in reward or fetch.is_checkpoint(reward))
                                    or (":" in reward and inspect.isclass(plugins.load(reward)))):
        return {"name": reward}, None
    entries = list(reward) if several(reward) else [reward]
    table = {"name": "function", "functions": [called(f) for f in entries], "weights": list(weights)}
    return table, None if all(isinstance(f, str) for f in entries) else FunctionJudge.of(entries, weights)


def called(what: Any) -> str:
    """Its name, for readers of the recipe."""
    own = getattr(what, "__name__", getattr(what, "label", type(what).__name__))
    return what if isinstance(what, str) else f"{own} (from Python)"
