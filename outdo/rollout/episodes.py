"""Task x engine -> trajectories: every prompt of a task is tried group_size times, in as many turns as the task wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from outdo.rollout.engine import Engine, Environment, Sampling
from outdo.system import randomness
from outdo.types import BoolArray, IntArray, Prompt, Trajectory, Usage


class Playable(Protocol):
    """The part of a task that rollouts need (see `outdo.tasks.base.Task`)."""

    turn_tokens: int
    max_tokens: int
    stop_ids: tuple[int, ...]

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Environment: ...


@runtime_checkable
class Rendering(Protocol):
    """An environment that can render a conversation anew for each turn."""

    renders: bool

    def context(self, row: int) -> IntArray: ...

    def step(self, rows_R: IntArray, replies_RN: IntArray) -> tuple[IntArray, BoolArray]: ...

    def info(self, row: int) -> dict[str, Any]: ...


def rollout(engine: Engine, task: Playable, prompts: Sequence[Prompt], *, group_size: int = 1, temperature: float = 1.0,
            opponent: str | None = None, seed: int = 0,
            progress: Callable[[int, int], None] | None = None) -> tuple[list[Trajectory], Usage]:
    """group_size trajectories per prompt, in prompt order. temperature 0 is greedy.

    The environment's random numbers are the same for every sample of a prompt, and independent of the policy.
    """
    repeated = [p for p in prompts for _ in range(group_size)]
    numbers = np.array([randomness.key(seed, "environment", p.id) for p in prompts], np.int64).repeat(group_size)
    environment = task.episodes(repeated, numbers, opponent)
    sampling = Sampling(temperature, task.turn_tokens, task.max_tokens, task.stop_ids)
    if isinstance(environment, Rendering) and environment.renders:
        return _turn_by_turn(engine, environment, repeated, group_size, sampling, seed)
    return engine.generate(prompts, group_size, sampling, seed, environment, progress)


def _turn_by_turn(engine: Engine, environment: Rendering, repeated: Sequence[Prompt], group_size: int, sampling: Sampling,
                  seed: int) -> tuple[list[Trajectory], Usage]:
    """Every turn begins from a context that is rendered anew, so each turn is a sequence of its own."""
    turns: list[list[Trajectory]] = [[] for _ in repeated]
    contexts = {row: p.token_ids for row, p in enumerate(repeated)}
    usage, number = Usage(), 0
    while contexts:
        rows = np.array(list(contexts), np.int64)
        asked = [Prompt(f"{repeated[r].id}#{number}/{r % group_size}", contexts[r]) for r in rows]
        wrote, spent = engine.generate(asked, 1, sampling, seed)
        usage += spent
        replies = np.full((len(rows), sampling.turn_tokens), -1, np.int64)
        for i, t in enumerate(wrote):
            replies[i, : int(t.mask.sum())] = t.token_ids[t.mask]
            turns[rows[i]].append(t)
        _, done = environment.step(rows, replies)
        contexts = {int(r): environment.context(int(r)) for r in rows[~done]}
        contexts = {r: c for r, c in contexts.items() if len(c) < sampling.max_tokens}  # no room is left to answer
        number += 1
    whole = [replace(last, prompt_id=p.id, sample=r % group_size, info=environment.info(r), earlier=tuple(before))
             for r, (p, (*before, last)) in enumerate(zip(repeated, turns, strict=True))]
    return whole, replace(usage, episodes=len(repeated))
