"""A run: the stages of a checked recipe in order, each from the checkpoint of the one before, then the summary.

Everything lands in the run folder; readers (report, compare, audit) see nothing else.
"""

from __future__ import annotations

from pathlib import Path

import torch

from outdo.compare.summary import summarise
from outdo.errors import UserError
from outdo.runs import cost, origin
from outdo.runs.advised import score_advice
from outdo.runs.audit_before import audit_before
from outdo.runs.check import Checked
from outdo.runs.plan import Plan
from outdo.runs.references import judging_pairs, measure_players
from outdo.runs.resolve import compute_device, compute_dtype
from outdo.runs.side_by_side import work_side_by_side
from outdo.runs.start import model_of
from outdo.stages.common.context import Run, Show, stop_gently
from outdo.stages.common.loop import Loop
from outdo.stages.common.preflight import preflight
from outdo.system import environment, files, machine


def run(checked: Checked, folder: Path, show: Show, plan: Plan | None = None) -> Path:
    """Run, or resume, a recipe in `folder`. Returns the path of summary.json. Raises UserError.

    plan: what the run is estimated to cost is kept with it (cost.json).
    """
    threads, state = torch.get_num_threads(), begin(checked, folder, show)
    folder = state.folder  # absolute: user code may change the working directory
    if plan is not None:
        cost.keep(checked, plan, folder)
    measure_players(folder, state.recipe, state.task, state.gold, state.heldout)
    try:
        _run_stages(checked, state, threads)
    except UserError as e:  # what was done before is measured, and worth reading
        if any((folder / "stages").glob("*/done.json")):
            files.write_json(folder / "summary.json", {**summarise(folder), "stopped": str(e)})
        raise
    summary = folder / "summary.json"
    files.write_json(summary, summarise(folder))
    score_advice(state.recipe, folder)
    return summary


def _run_stages(checked: Checked, state: Run, threads: int) -> None:
    recipe, folder = state.recipe, state.folder
    with stop_gently(state):
        left = [n for n in recipe.order() if not (folder / "stages" / n / "done.json").exists()]
        together = [n for n in left if recipe.jobs > 1 and not recipe.alone(n)]
        for name in left:
            if name not in together:
                run_stage(checked, state, name, threads)
        work_side_by_side(state, together, max(1, threads // recipe.jobs))


def run_stage(checked: Checked, state: Run, name: str, threads: int) -> None:
    """Run one stage, or resume it, in this process."""
    torch.set_num_threads(threads)
    machine.keep_freed_memory()
    stage = checked.stages[name]
    model = model_of(state.recipe, name, state.task, state.folder).to(compute_device(state.recipe))
    loop = Loop(state, name, model, stage)
    if stage.config.learns_from_scores:
        preflight(loop)
        audit_before(loop)
    stage.run(loop)


def begin(checked: Checked, folder: Path, show: Show) -> Run:
    """Write what the run folder begins with, and gather what all stages of the run share."""
    recipe, task = checked.recipe, checked.task
    dtype = compute_dtype(recipe)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.toml").exists():
        files.write_text(folder / "recipe.toml", recipe.to_toml())
        origin.write(recipe, folder)
    if not (folder / "environment.json").exists():
        files.write_json(folder / "environment.json", environment.describe(dtype, compute_device(recipe)))
    origin.check_kernels(folder)
    e = recipe.evaluation
    heldout = task.prompts(e.split, e.prompts, 0)
    further = {split: task.prompts(split, e.prompts, 0) for split in e.also}
    pairs, win_id = judging_pairs(task, heldout)
    return Run(recipe, checked.given, folder, task, checked.tokenizer, checked.judge, checked.gold, dtype, show, heldout,
               checked.withheld, further, checked.corpus, pairs, win_id)
