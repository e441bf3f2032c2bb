"""A recipe with everything written out that it leaves open: judges, device, how many stages run side by side.

What a key leaves open is decided here and nowhere else. The resolved recipe is what `--dry-run` prints and the run folder holds.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from outdo import plugins
from outdo.errors import check
from outdo.plugins import Plugin
from outdo.recipe import Recipe, StageConfig
from outdo.stages.base import Given
from outdo.system import machine
from outdo.system.progress import say
from outdo.tasks.base import Task


def resolve(recipe: Recipe, given: Given | None = None) -> Recipe:
    """The recipe with the judges that it leaves to its task, for this machine. Raises UserError."""
    check(given is not None or not recipe.python, f"this run was given its {' and '.join(recipe.python)} by a call from Python, "
          "and no file holds them; resume with the same call and resume = its folder, or use outdo.evaluate on a checkpoint")
    own = given.task.judge if given and given.task else plugins.find("tasks", recipe.task.name, Task).judge  # type: ignore[type-abstract]
    judge = recipe.judge if recipe.judge.name else Plugin(name=own)
    # A table of prompts has no judge of its own: then what trains is also what measures.
    gold = recipe.gold if recipe.gold.name else judge if own in (judge.name, "function") else Plugin(name=own)
    jobs = 1 if recipe.jobs > 1 and compute_device(recipe).type == "cuda" else recipe.jobs
    if jobs < recipe.jobs:
        _say_one_at_a_time(recipe.jobs)
    recipe = recipe.model_copy(update={"judge": judge, "gold": gold, "jobs": jobs})
    for name in recipe.stage:
        recipe = recipe.with_stage(name, _fine_tuning(recipe, name))
    return recipe


# Learning rates where the recipe names none: (from demonstrations, from scores), by what trains.
CHECKPOINT_LR, LORA_LR = (5e-5, 2e-5), (2e-4, 1e-4)
_WARMUP_STEPS = 5
_ROWS = 16  # of data in an optimiser step
_PROMPTS, _GROUP_SIZE = 8, 16  # of a step that learns from scores


def _fine_tuning(recipe: Recipe, name: str) -> dict[str, Any]:
    """What a stage leaves open whose path begins with a checkpoint: a trained model takes small steps.

    Random weights keep the defaults of the recipe's own tables (a learning rate of 5e-4). A stage that names its learning rate
    is tuned already, so the rest of its optimiser is left as it is.
    """
    if recipe.checkpoint(name) is None:
        return {}
    stage = recipe.stage[name]
    found: dict[str, Any] = {}
    if "lr" not in stage.optimizer.model_fields_set:
        changed: dict[str, Any] = {"lr": default_lr(stage), "warmup_steps": _WARMUP_STEPS}
        if stage.learns_from_scores:
            changed["betas"] = (0.9, 0.99)
        kept = stage.optimizer.model_fields_set
        found["optimizer"] = stage.optimizer.model_copy(update={k: v for k, v in changed.items() if k not in kept})
    if not stage.tries_task and "episodes" in type(stage).model_fields and "episodes" not in stage.model_fields_set:
        found["episodes"] = _ROWS
    if stage.learns_from_scores:
        for key, value in (("prompts", _PROMPTS), ("group_size", _GROUP_SIZE)):
            if key in type(stage).model_fields and key not in stage.model_fields_set:
                found[key] = value
    return found


def default_lr(stage: StageConfig) -> float:
    """The learning rate for a stage that starts from a checkpoint, by its kind and by what trains."""
    if stage.usual_lr is not None:
        return stage.usual_lr[stage.lora is not None]
    return (LORA_LR if stage.lora else CHECKPOINT_LR)[stage.learns_from_scores]


@functools.cache
def _say_one_at_a_time(jobs: int) -> None:
    say(f"jobs = {jobs}: stages run one after the other here, because one fills a GPU; side by side they would share its memory "
        "and gain nothing")


def compute_device(recipe: Recipe) -> torch.device:
    """Where models are trained and sampled from. Raises UserError for a GPU that is not there."""
    there = torch.cuda.is_available()
    why = "is its driver running?" if torch.version.cuda else f"torch {torch.__version__} was built without CUDA"
    check(there or recipe.device != "cuda", f"device = 'cuda': torch sees no GPU here ({why}); mend that, or set device = 'auto'")
    return torch.device("cuda" if there and recipe.device != "cpu" else "cpu")


def compute_dtype(recipe: Recipe) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp32": torch.float32, "auto": machine.compute_dtype(compute_device(recipe))}[recipe.dtype]


