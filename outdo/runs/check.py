"""A resolved recipe checked against its plug-ins, data and checkpoints, before anything long begins and without touching a file.

What is made on the way (task, judges, tokenizer, the models' shapes) is passed on to the plan and to the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from outdo import plugins
from outdo.errors import check
from outdo.evaluation import forgetting
from outdo.judges.base import Judge, make_judge
from outdo.models.base import LanguageModel
from outdo.recipe import Recipe
from outdo.runs.resolve import compute_device
from outdo.runs.start import roots, skeleton, tokenizer_of
from outdo.stages.base import Given, Stage, check_known
from outdo.system import trackers
from outdo.tasks.base import Task, make_task


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
    for name, stage in stages.items():
        stage.check_data(tokenizer, models[name].config.max_position_embeddings, given)
    _check_splits(recipe, task)
    context = min(m.config.max_position_embeddings for m in models.values())
    e = recipe.evaluation
    corpus = forgetting.load(e.corpus, e.corpus_tokens, tokenizer, context) if e.corpus else None
    return Checked(recipe, given, task, judge, gold, tokenizer, stages, models, corpus)


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
    for split in dict.fromkeys([*([e.split, *e.also] if e.prompts else []), *trained]):
        task.prompts(split, 1, 0)
