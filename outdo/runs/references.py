"""The reference players of a task: measured once for a run, and what their games give to the judging test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outdo.evaluation.measure import measure
from outdo.judges.base import Judge
from outdo.recipe import Recipe
from outdo.system import files, randomness
from outdo.tasks.base import Task
from outdo.types import Prompt, Trajectory, Usage

JUDGING_PAIRS = 500


def judging_pairs(task: Task, heldout: Sequence[Prompt]) -> tuple[list[Any], int | None]:
    """Won and not-won prefixes from all reference players' games; the same for every stage."""
    games: list[Trajectory] = []
    for i, player in enumerate(task.players if heldout else ()):
        for opponent in task.opponents:
            games += task.play(player, heldout, random_numbers(heldout, i), opponent)
    pairs = task.judge_pairs(games, JUDGING_PAIRS, 0)
    win_id = getattr(task, "result_token_ids", {}).get("win")
    return (pairs, win_id) if win_id is not None else ([], None)


def random_numbers(prompts: Sequence[Prompt], salt: int) -> np.ndarray:
    return np.array([randomness.key(salt, p.id) for p in prompts], np.int64)


def measure_players(folder: Path, recipe: Recipe, task: Task, gold: Judge, heldout: Sequence[Prompt]) -> None:
    """The reference players on the same prompts against every opponent -> players.jsonl."""
    file = folder / "players.jsonl"
    if file.exists():
        return
    names = (recipe.evaluation.players or task.players) if heldout else ()
    opponents = recipe.evaluation.opponents or task.opponents
    lines = []
    for player in names:
        for opponent in opponents:

            def play(prompts: Sequence[Prompt], p: str = player, o: str = opponent) -> tuple[list[Trajectory], Usage]:
                return task.play(p, prompts, random_numbers(prompts, 1), o), Usage()

            m = measure(task, play, heldout, {"gold": gold.score})
            lines.append({"player": player, "opponent": opponent, **m.record()})
    files.write_lines(file, lines)
