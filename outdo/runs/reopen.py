"""Finished work opened again: find a checkpoint by what a person types, load it for its task, measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outdo.errors import UserError, check, nearest
from outdo.evaluation.measure import Measurement, measure
from outdo.judges.base import Judge, make_judge
from outdo.models import fetch, hf
from outdo.recipe import Recipe, load, parse
from outdo.rollout.engine import Engine
from outdo.rollout.episodes import rollout
from outdo.runs.resolve import compute_device, compute_dtype, resolve
from outdo.runs.start import check_fits, tokenizer_of
from outdo.stages.base import Given
from outdo.system import machine
from outdo.system.progress import say
from outdo.tasks.base import Task, make_task
from outdo.training import checkpoint
from outdo.types import Prompt, Trajectory, Usage

DECODES = {"sampled": 1.0, "greedy": 0.0}  # temperatures


@dataclass(frozen=True)
class Opened:
    """A checkpoint ready to play: the model, packed and loaded in an engine, and the task that it was made for."""

    folder: Path
    recipe: Recipe
    task: Task
    gold: Judge
    engine: Engine


def locate(target: str) -> tuple[Path, Path | None]:
    """`CHECKPOINT` or `RUN[:stage]` -> its folder and the run folder that it lies in, if any. Raises UserError.

    A checkpoint is a folder, a GGUF file, a fetched name or a hub id, as in a recipe's `from`.
    """
    path, stage = Path(target), None
    if not path.exists() and ":" in target:
        before, _, stage = target.rpartition(":")
        path = Path(before)
    if stage is None and not path.is_dir() and fetch.is_checkpoint(target):
        return fetch.resolve(target, say), None
    check(path.is_dir(), f"{str(path)!r} does not exist; give a run folder, RUN:stage or a checkpoint; {fetch.FORMS}")
    if (path / "recipe.toml").is_file():
        return fetch.last_checkpoint(path, stage or ""), path
    check(stage is None, f"{str(path)!r} is not a run folder (it has no recipe.toml), so it has no stage {stage!r}")
    check((path / "config.json").is_file(), f"{str(path)!r} is neither a run folder (no recipe.toml) nor a checkpoint "
                                            "(no config.json); checkpoints lie in RUN/stages/STAGE/checkpoints/")
    return path, next((p for p in path.resolve().parents if (p / "recipe.toml").is_file()), None)


def recipe_for(run: Path | None, recipe: Path | None, task: str | None, overrides: Mapping[str, Any]) -> Recipe:
    """What a checkpoint is measured by: --recipe, --task, or the recipe of its run. Raises UserError."""
    check(recipe is None or task is None, "--recipe and --task say the same thing twice; give one")
    if recipe is not None:
        return load(recipe, overrides)
    if task is not None:
        stage = {"checkpoint": {"kind": "sft", "steps": 1}}  # a recipe needs a stage; this one is never run
        return parse({"name": "checkpoint", "task": {"name": task}, "stage": stage}, overrides)
    if run is None:
        raise UserError("this checkpoint lies in no run folder, so its task is unknown; add --task or --recipe")
    return load(run / "recipe.toml", overrides)


def open_checkpoint(target: str, recipe: Path | None = None, task: str | None = None,
                    overrides: Mapping[str, Any] | None = None) -> Opened:
    """Load what `target` names. Raises UserError, also if the model does not fit the task."""
    folder, run = locate(target)
    return opened(folder, resolve(recipe_for(run, recipe, task, overrides or {})))


def opened(folder: Path, config: Recipe, given: Given | None = None) -> Opened:
    """Load a checkpoint for a recipe's task. Raises UserError, also if the model does not fit the task."""
    given = given or Given()
    torch.set_num_threads(config.threads or torch.get_num_threads())
    machine.keep_freed_memory()
    plays = given.task or make_task(config.task)
    gold = given.gold or make_judge(config.gold)
    gold.score([])  # says what it lacks
    tokenizer_of(plays, [folder])
    model = hf.load(folder).to(compute_device(config))
    check_fits(model.config, plays, str(folder))
    engine = Engine(model, compute_dtype(config), config.slots)
    engine.load(_optimizer_steps(folder))
    return Opened(folder, config, plays, gold, engine)


def _optimizer_steps(folder: Path) -> int:
    """Random numbers depend on the policy version: with the same version an evaluation repeats the run's own numbers."""
    return checkpoint.load_steps(folder) if (folder / checkpoint.FILE).is_file() else 0


def measurements(opened: Opened, opponents: Sequence[str], decodes: Sequence[str], n: int | None, seed: int,
                 progress: Callable[[str, int, int], None]) -> Iterator[dict[str, Any]]:
    """One record per opponent and decoding. Opponents and number of prompts are the recipe's unless given.

    progress(what, episodes done, all of them). Raises UserError.
    """
    task, e = opened.task, opened.recipe.evaluation
    for name in opponents:
        check(name in task.opponents, f"--opponent {name!r}: task {task.name} has no such name"
                                      f"{nearest(name, list(task.opponents))}")
    prompts = task.prompts(e.split, n or e.prompts, seed)
    for opponent in opponents or e.opponents or task.opponents:
        for decode in decodes:

            def play(prompts: Sequence[Prompt], o: str = opponent, d: str = decode) -> tuple[list[Trajectory], Usage]:
                return rollout(opened.engine, task, prompts, group_size=e.samples if DECODES[d] else 1,
                               temperature=DECODES[d], opponent=o, seed=1 + seed,
                               progress=lambda done, of: progress(f"{d} vs {o}", done, of))

            m: Measurement = measure(task, play, prompts, {"gold": opened.gold.score})
            yield {"checkpoint": str(opened.folder), "task": task.name, "decode": decode,
                   "opponent": opponent, "seed": seed, **m.record(), **_answers(m)}


def _answers(m: Measurement) -> dict[str, Any]:
    """For tasks of text: prompt, completion and score of every answer."""
    told = [{"prompt": t.info["prompt"], "completion": t.info["completion"], "score": None if np.isnan(x) else float(x)}
            for t, x in zip(m.trajectories, m.answers, strict=True) if "completion" in t.info]
    return {"answers": told} if told else {}
