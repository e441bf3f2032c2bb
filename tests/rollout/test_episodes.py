"""rollout(): a task's prompts played group_size times each, with paired luck.

Run: .venv/bin/python -m pytest tests/rollout/test_episodes.py   (about 3 s on one core)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from toys import Ragged, decoder, engine, prompts

from outdo.rollout.episodes import rollout
from outdo.types import IntArray, Prompt


class Toy:
    """A task that remembers what it was asked for."""

    turn_tokens = 4
    max_tokens = 40
    stop_ids = ()

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[int], str | None]] = []

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Ragged:
        self.asked.append(([p.id for p in prompts], seeds_R.tolist(), opponent))
        return Ragged(prompts, 1)


def luck(task: Toy, call: int) -> np.ndarray:
    return np.array(task.asked[call][1])


def test_environment_rows_and_luck() -> None:
    """Sample g of prompt i is row i * group_size + g; samples of a prompt get the same dice, prompts different ones."""
    task, asked = Toy(), prompts([3, 5, 5])
    got, usage = rollout(engine(decoder()), task, asked, group_size=4, opponent="x", seed=1)
    ids, _, opponent = task.asked[0]
    assert ids == [p.id for p in asked for _ in range(4)] == [t.prompt_id for t in got] and opponent == "x"
    assert [t.sample for t in got] == [0, 1, 2, 3] * 3 and usage.episodes == 12
    seeds = luck(task, 0).reshape(3, 4)
    assert (seeds == seeds[:, :1]).all() and len(set(seeds[:, 0].tolist())) == 3 and (seeds >= 0).all()


def test_luck_depends_on_seed_and_prompt_alone() -> None:
    task, asked = Toy(), prompts([3, 5, 5])
    for version, seed, order in ((1, 1, asked), (2, 1, asked), (1, 2, asked), (1, 1, asked[::-1])):
        rollout(engine(decoder(seed=version), version=version), task, order, seed=seed)
    assert (luck(task, 0) == luck(task, 1)).all() and (luck(task, 0) != luck(task, 2)).all()
    assert (luck(task, 0) == luck(task, 3)[::-1]).all()


def test_temperature_zero_is_greedy() -> None:
    task, asked = Toy(), prompts([3, 5, 5])
    runs = [rollout(engine(decoder()), task, asked, group_size=2, temperature=0.0, seed=s)[0] for s in (1, 2)]
    texts = [[t.token_ids.tolist() for t in run] for run in runs]
    assert texts[0] == texts[1] and texts[0][0] == texts[0][1]
    assert texts[0] != [t.token_ids.tolist() for t in rollout(engine(decoder()), task, asked, group_size=2, seed=1)[0]]
