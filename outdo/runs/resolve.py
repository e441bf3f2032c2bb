"""A recipe with everything written out that it leaves open: judges, device, how many stages run side by side.

What a key leaves open is decided here and nowhere else. The resolved recipe is what `--dry-run` prints and the run folder holds.
"""

from __future__ import annotations

import functools

import torch

from outdo import plugins
from outdo.errors import check
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.runs.start import say
from outdo.stages.base import Given
from outdo.system import machine
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
    return recipe.model_copy(update={"judge": judge, "gold": gold, "jobs": jobs})


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


