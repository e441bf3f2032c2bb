"""Task x engine -> trajectories: every prompt of a task is tried group_size times, in as many turns as the task wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from outdo.rollout.engine import Engine, Environment, Sampling
from outdo.system import randomness
from outdo.types import IntArray, Prompt, Trajectory, Usage


class Playable(Protocol):
    """The part of a task that rollouts need (see `outdo.tasks.base.Task`)."""

    turn_tokens: int
    max_tokens: int
    stop_ids: tuple[int, ...]

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Environment: ...


def rollout(engine: Engine, task: Playable, prompts: Sequence[Prompt], *, group_size: int = 1, temperature: float = 1.0,
            opponent: str | None = None, seed: int = 0,
            progress: Callable[[int, int], None] | None = None) -> tuple[list[Trajectory], Usage]:
    """group_size trajectories per prompt, in prompt order. temperature 0 is greedy.

    The environment's own dice are the same for every sample of a prompt (paired luck), and independent of the policy.
    """
    repeated = [p for p in prompts for _ in range(group_size)]
    luck = np.array([randomness.key(seed, "environment", p.id) for p in prompts], np.int64).repeat(group_size)
    environment = task.episodes(repeated, luck, opponent)
    sampling = Sampling(temperature, task.turn_tokens, task.max_tokens, task.stop_ids)
    return engine.generate(prompts, group_size, sampling, seed, environment, progress)
