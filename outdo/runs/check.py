"""A resolved recipe checked against its plug-ins, data and checkpoints, before anything long begins and without touching a file.

What is made on the way (task, judges, tokenizer, the models' shapes) is passed on to the plan and to the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.errors import UserError, check
from outdo.evaluation import forgetting
from outdo.judges.base import Judge, make_judge
from outdo.models.base import LanguageModel
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.runs.resolve import compute_device
from outdo.runs.start import roots, skeleton, tokenizer_of
from outdo.stages.base import DataChecks, Given, Stage, check_known
from outdo.system import trackers
from outdo.tasks.base import Task, make_task
from outdo.text.overlap import Withheld
from outdo.types import Finish, Prompt, Trajectory


@dataclass(frozen=True)
class Checked:
    """A recipe that can run, and what its stages share."""

    recipe: Recipe  # resolved
    given: Given
    task: Task
    judge: Judge
    gold: Judge
    tokenizer: PreTrainedTokenizerBase
    stages: dict[str, Stage]  # each stage's kind, made with its options
    models: dict[str, LanguageModel]  # each stage's model without weights
    corpus: forgetting.Corpus | None
    withheld: Withheld  # prompts that are measured on: rows of data with these do not train
    notes: tuple[str, ...]  # what the reader should know before it starts


def check_recipe(recipe: Recipe, given: Given | None = None) -> Checked:
    """Check the whole recipe, which is resolved. Raises UserError."""
    given = given or Given()
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    trackers.check_installed(recipe.trackers)
    compute_device(recipe)
    task = given.task or make_task(recipe.task)
    judge = given.judge or make_judge(recipe.judge)
    gold = given.gold or (judge if recipe.gold == recipe.judge else make_judge(recipe.gold))  # a reward model is read once
    if recipe.plays:
        judge.score([]), gold.score([])  # they say what they lack
    stages = {name: make_stage(recipe, name) for name in recipe.stage}
    for name, stage in stages.items():
        stage.check(name, recipe, task, given)
    _check_evaluation(recipe, task)
    tokenizer = tokenizer_of(task, roots(recipe).values())
    models = {name: skeleton(recipe, name, task) for name in recipe.order()}
    recipe = _sized(recipe, task)
    _check_splits(recipe, task)
    e = recipe.evaluation
    _check_columns(recipe, task, (judge, gold))
    withheld = Withheld(task.withheld(e.split, e.prompts) if e.prompts else ())
    notes: list[str] = []
    asked = _asked(recipe, task)
    for name, stage in stages.items():
        context = models[name].config.max_position_embeddings
        found = stage.check_data(DataChecks(tokenizer, context, given, task, withheld, recipe.budget_flops(name),
                                            lambda text, name=name: notes.append(f"{name}: {text}"), asked))  # type: ignore[misc]
        if found:
            optimizer, steps = recipe.stage[name].optimizer, found.get("steps")
            if steps is not None and optimizer.warmup_steps >= steps:  # no stage is all warm-up
                found = {**found, "optimizer": optimizer.model_copy(update={"warmup_steps": steps // 5})}
            recipe = recipe.with_stage(name, found)
    context = min(m.config.max_position_embeddings for m in models.values())
    recipe = _written_out(recipe, given, task)
    stages = {name: make_stage(recipe, name) for name in recipe.stage}
    corpus = forgetting.load(e.corpus, e.corpus_tokens, tokenizer, context) if e.corpus else None
    return Checked(recipe, given, task, judge, gold, tokenizer, stages, models, corpus, withheld, tuple(notes))


def _check_columns(recipe: Recipe, task: Task, judges: Sequence[Judge]) -> None:
    """Raise UserError where a judge needs columns that none of the first rows has: it would score nothing."""
    split = _tried_split(recipe)
    if split is None or not task.one_reply:
        return
    size = task.size(split)
    prompts = task.prompts(split, _LOOKED_AT if size is None else min(size, _LOOKED_AT), 0)
    seen = [unanswered(p) for p in prompts]
    for judge in judges:
        lacking = [judge.lacks(t) for t in seen]
        if lacking and all(lacking):
            have = ", ".join(k for k in prompts[0].row if k != "prompt")
            raise UserError(f"judge {judge.name} needs the column {', '.join(lacking[0])}, which the rows do not have; there is "
                            f"{have or 'none'}: rename the function's parameter, or name the column (task.columns)")


def _asked(recipe: Recipe, task: Task) -> Any:
    """The first prompt as the task gives it; None where the task is never tried, or its prompts are no text."""
    split = _tried_split(recipe)
    return task.prompts(split, 1, 0)[0].row.get("prompt") if split and task.size(split) != 0 else None


def _tried_split(recipe: Recipe) -> str | None:
    """Where the first prompts of the stages that learn from scores come from; else those of the evaluation."""
    split = next((s.split for s in recipe.stage.values() if s.learns_from_scores and hasattr(s, "split")), None)
    return split or (recipe.evaluation.split if recipe.evaluation.prompts else None)


def unanswered(prompt: Prompt) -> Trajectory:
    """A prompt with an empty completion."""
    plain = isinstance(prompt.row.get("prompt"), str)
    ids = np.append(prompt.token_ids, prompt.token_ids[-1:])
    mask = np.arange(len(ids)) == len(ids) - 1
    return Trajectory(prompt.id, 0, ids, mask, np.zeros(len(ids), np.float32), 0, Finish.STOP,
                      {**prompt.row, "completion": "" if plain else [{"role": "assistant", "content": ""}]})


_LOOKED_AT = 20  # rows whose columns are held against what the judges need
_OBJECTS = ("data", "eval_data", "tools", "environment")  # options of a task that a call from Python may give as objects


def _written_out(recipe: Recipe, given: Given, task: Task) -> Recipe:
    """The recipe with all options of its plug-ins as they are used, so that the run folder holds every default."""
    changed: dict[str, Any] = {}
    if (config := getattr(task, "config", None)) is not None:
        named = {} if given.task is None else recipe.task.options  # objects, which only have names here
        options = {**config.model_dump(mode="json", exclude_none=True), **{k: v for k, v in named.items() if k in _OBJECTS}}
        changed["task"] = Plugin(name=recipe.task.name, **options)
    for key in ("judge", "gold"):
        if getattr(given, key) is None:
            changed[key] = plugins.written_out("judges", getattr(recipe, key), Judge)
    recipe = recipe.model_copy(update=changed)
    for name, stage in recipe.stage.items():
        found = {key: plugins.written_out(package, plugin, base) for key, package, base in
                 (("judge", "judges", Judge), ("algorithm", "algorithms", Algorithm))
                 if isinstance(plugin := getattr(stage, key, None), Plugin)}  # fmt: skip
        recipe = recipe.with_stage(name, found)
    return recipe


def _sized(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with as many evaluation prompts as there are, where it does not say how many."""
    e = recipe.evaluation
    if "prompts" in e.model_fields_set or not e.prompts:
        return recipe
    size = task.size(e.split)
    return recipe if size is None or size >= e.prompts else recipe.with_evaluation({"prompts": size})


def make_stage(recipe: Recipe, name: str) -> Stage:
    """A stage's kind with the stage's options."""
    config = recipe.stage[name]
    return plugins.find("stages", config.kind, Stage)(config)  # type: ignore[type-abstract]


def _check_evaluation(recipe: Recipe, task: Task) -> None:
    e = recipe.evaluation
    check(e.samples <= recipe.slots, f"evaluation.samples = {e.samples} does not fit into slots = {recipe.slots}; raise slots")
    check(e.split not in e.also, f"evaluation.also = {list(e.also)}: {e.split!r} is measured already; leave it out")
    check_known("evaluation.opponents", e.opponents, task.opponents, task)
    check_known("evaluation.players", e.players, task.players, task)


def _check_splits(recipe: Recipe, task: Task) -> None:
    """The task knows its splits, and whether they have any prompts with these options."""
    e = recipe.evaluation
    trained = [split for s in recipe.stage.values() if s.tries_task and (split := getattr(s, "split", None))]
    for split in dict.fromkeys([e.split, *e.also] if e.prompts else []):
        task.prompts(split, e.prompts, 0)
    for split in dict.fromkeys(trained):
        task.prompts(split, 1, 0)
