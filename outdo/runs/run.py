"""One run: the stages of a recipe in order, each from the checkpoint of the one before, then the reference players.

Everything lands in the run folder; readers (report, compare, audit) see nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from outdo import plugins
from outdo.compare.summary import summarise
from outdo.errors import check
from outdo.evaluation import forgetting
from outdo.evaluation.measure import measure
from outdo.judges.base import Judge
from outdo.recipe import Imitation, Plugin, Pretrain, Recipe, Rejection, Rl, Sft, nearest, parse
from outdo.recipe import load as load_recipe
from outdo.rollout.custom import RolloutFunc
from outdo.runs.side_by_side import work_side_by_side
from outdo.runs.start import model_of, roots, say, skeleton, tokenizer_of
from outdo.stages.imitation import imitate
from outdo.stages.loop import Loop, Run, stop_gently
from outdo.stages.preflight import preflight
from outdo.stages.rejection import reject
from outdo.stages.rl import reinforce
from outdo.system import environment, files, machine, randomness, trackers
from outdo.tasks.base import Task
from outdo.tasks.text.task import TextTask
from outdo.text import render, unseen
from outdo.text.rows import Rows
from outdo.types import Prompt, Trajectory, Usage

STAGES: dict[type, Callable[[Loop], None]] = {Pretrain: imitate, Sft: imitate, Rejection: reject, Rl: reinforce}
JUDGING_PAIRS = 500
Show = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Given:
    """What a call from Python hands over in place of what the recipe names: no file can hold it (see `outdo.api`)."""

    task: Task | None = None
    judge: Judge | None = None
    gold: Judge | None = None
    rows: Rows | None = None  # of the imitation stages
    unseen: Rows | None = None  # on which their loss is measured
    rollout: RolloutFunc | None = None  # generates in the stages that learn from scores


class Checked(NamedTuple):
    """What all stages of a recipe share, found while it was checked."""

    task: Task
    judge: Judge
    gold: Judge
    tokenizer: PreTrainedTokenizerBase


def run(recipe: Recipe, folder: Path, show: Show, given: Given | None = None) -> Path:
    """Do, or go on with, the recipe in `folder`. Returns the path of summary.json. Raises UserError."""
    recipe = resolved(recipe, given)
    threads = recipe.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    state = prepare(recipe, folder, show, given)
    measure_players(state)
    with stop_gently(state):
        left = [n for n in recipe.order() if not (folder / "stages" / n / "done.json").exists()]
        together = [n for n in left if recipe.jobs > 1 and not recipe.alone(n)]
        for name in left:
            if name not in together:
                do_stage(state, name, threads)
        work_side_by_side(state, together, max(1, threads // recipe.jobs))
    summary = folder / "summary.json"
    files.write_json(summary, summarise(folder))
    return summary


def do_stage(state: Run, name: str, threads: int) -> None:
    """Do one stage, or go on with it, in this process."""
    torch.set_num_threads(threads)
    machine.keep_freed_memory()
    loop = Loop(state, name, model_of(state.recipe, name, state.task, state.folder).to(compute_device(state.recipe)))
    if isinstance(loop.config, Rl | Rejection):
        preflight(loop)
    STAGES[type(loop.config)](loop)


def prepare(recipe: Recipe, folder: Path, show: Show, given: Given | None = None) -> Run:
    """Check the recipe, and make the run folder and all that its stages share."""
    task, judge, gold, tokenizer = check_recipe(recipe, given)
    dtype = compute_dtype(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.toml").exists():
        files.write_text(folder / "recipe.toml", recipe.to_toml())
    if not (folder / "environment.json").exists():
        files.write_json(folder / "environment.json", environment.describe(dtype, compute_device(recipe)))
    e = recipe.evaluation
    heldout = task.prompts(e.split, e.prompts, 0)
    given = given or Given()
    state = Run(recipe, folder, task, tokenizer, judge, gold, dtype, heldout, [], show, given.rows, given.unseen, given.rollout)
    state.pairs, state.extra["win_id"] = judging_pairs(task, heldout)
    state.further = {split: task.prompts(split, e.prompts, 0) for split in e.also}
    state.corpus = corpus_of(recipe, task, tokenizer)
    return state


def resolved(recipe: Recipe, given: Given | None = None) -> Recipe:
    """The recipe with the judges that it leaves to its task. Raises UserError."""
    check(given is not None or not recipe.python, f"this run was given its {' and '.join(recipe.python)} by a call from Python, "
          "and no file holds them; go on with the same call and resume = its folder, or measure a checkpoint with outdo.evaluate")
    own = given.task.judge if given and given.task else plugins.find("tasks", recipe.task.name, Task).judge  # type: ignore[type-abstract]
    judge = recipe.judge if recipe.judge.name else Plugin(name=own)
    # A table of prompts knows no judge: what trains is all there is.
    gold = recipe.gold if recipe.gold.name else judge if own in (judge.name, "function") else Plugin(name=own)
    jobs = 1 if recipe.jobs > 1 and compute_device(recipe).type == "cuda" else recipe.jobs
    if jobs < recipe.jobs:
        _say_alone(recipe.jobs)
    return recipe.model_copy(update={"judge": judge, "gold": gold, "jobs": jobs})


@functools.cache
def _say_alone(jobs: int) -> None:
    say(f"jobs = {jobs}: stages go one after the other here, one fills a GPU; side by side they would share its memory and gain "
        "nothing")


def check_recipe(recipe: Recipe, given: Given | None = None) -> Checked:
    """Check the whole recipe against its plug-ins before anything long begins. Touches no file. Raises UserError."""
    given = given or Given()
    trackers.check_installed(recipe.trackers)
    compute_device(recipe)
    task = given.task or make_task(recipe)
    judge = given.judge or make_judge(recipe.judge)
    gold = given.gold or (judge if recipe.gold == recipe.judge else make_judge(recipe.gold))  # a reward model is read once
    if recipe.plays:
        judge.score([]), gold.score([])  # they say what they lack
    for name, stage in recipe.stage.items():
        check_stage(recipe, name, task, given.rollout)
        if isinstance(stage, Rl):
            from outdo.algorithms.base import Algorithm

            plugins.make("algorithms", stage.algorithm, Algorithm)  # type: ignore[type-abstract]
    e = recipe.evaluation
    check(e.samples <= recipe.slots, f"evaluation.samples = {e.samples} does not fit into slots = {recipe.slots}; raise slots")
    _check_known("evaluation.opponents", e.opponents, task.opponents, task)
    _check_known("evaluation.players", e.players, task.players, task)
    tokenizer = tokenizer_of(task, roots(recipe).values())
    for name, stage in recipe.stage.items():
        sizes = skeleton(recipe, name, task).config
        if isinstance(stage, Imitation) and stage.data is not None:
            render.preview(stage, tokenizer, sizes.max_position_embeddings, given=given.rows)
            if stage.heldout_data is not None:
                render.preview(unseen.source(stage), tokenizer, sizes.max_position_embeddings, given=given.unseen)
    # The task knows its splits, and whether they have any prompts with these options.
    played = [s for s in recipe.stage.values() if not (isinstance(s, Imitation) and s.data is not None)]
    for split in dict.fromkeys([*([e.split, *e.also] if e.prompts else []), *(s.split for s in played)]):
        task.prompts(split, 1, 0)
    check(e.split not in e.also, f"evaluation.also = {list(e.also)}: {e.split!r} is measured already; leave it out")
    corpus_of(recipe, task, tokenizer)
    return Checked(task, judge, gold, tokenizer)


def make_task(recipe: Recipe) -> Task:
    return plugins.make("tasks", recipe.task, Task)  # type: ignore[type-abstract]


def make_judge(plugin: Plugin) -> Judge:
    return plugins.make("judges", plugin, Judge)  # type: ignore[type-abstract]


def check_stage(recipe: Recipe, name: str, task: Task, rollout: RolloutFunc | None) -> None:
    """Players, opponents, judges and functions that a stage names must exist."""
    stage = recipe.stage[name]
    _check_known(f"stage.{name}.opponents", stage.opponents, task.opponents, task)
    if isinstance(stage, Imitation) and stage.data is not None:
        check(getattr(stage, "keep", "all") == "all", f"stage.{name}.keep = 'won' goes with a player's episodes; rows of data "
              "are neither won nor lost: leave out keep, or data")
        check(stage.random_moves == 0.0, f"stage.{name}.random_moves = {stage.random_moves} goes with a player; rows of data are "
              "imitated as they are: leave out random_moves, or data")
    elif isinstance(stage, Imitation):
        check(stage.heldout_data is None, f"stage.{name}.heldout_data goes with data; a player has episodes enough")
        _check_known(f"stage.{name}.player", [stage.player], task.players, task)
        if stage.random_moves > 0.0:
            task.play(stage.player, [], np.zeros(0, np.int64), None, stage.random_moves)  # it says that it cannot
    own = getattr(stage, "judge", None)
    if own is not None:
        make_judge(own)
    if isinstance(stage, Rl | Rejection):
        if stage.rollout is not None and rollout is None:
            check(callable(plugins.load(stage.rollout)), f"stage.{name}.rollout = {stage.rollout!r} cannot be called")
        alone = isinstance(task, TextTask) and not getattr(task, "multi_turn", False)
        check(stage.rollout is None or alone, f"stage.{name}.rollout goes with tasks of text without tools or environments: the "
              "function does its own turns, so let it call them")
        check(stage.group_size <= recipe.slots, f"stage.{name}.group_size = {stage.group_size} does not fit into "
              f"slots = {recipe.slots}; raise slots or lower group_size")


def _check_known(key: str, values: Sequence[str], known: Sequence[str], task: Task) -> None:
    for value in values:
        check(value in known, f"{key} = {value!r}: task {task.name} has no such name{nearest(value, list(known))}")


def corpus_of(recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase) -> forgetting.Corpus | None:
    """The text on which forgetting is measured, cut to what every stage's model can read. Raises UserError."""
    e = recipe.evaluation
    if not e.corpus:
        return None
    context = min(skeleton(recipe, name, task).config.max_position_embeddings for name in recipe.stage)
    return forgetting.load(e.corpus, e.corpus_tokens, tokenizer, context)


def compute_device(recipe: Recipe) -> torch.device:
    """Where models are trained and sampled from. Raises UserError for a GPU that is not there."""
    there = torch.cuda.is_available()
    why = "is its driver running?" if torch.version.cuda else f"torch {torch.__version__} was built without CUDA"
    check(there or recipe.device != "cuda", f"device = 'cuda': torch sees no GPU here ({why}); mend that, or set device = 'auto'")
    return torch.device("cuda" if there and recipe.device != "cpu" else "cpu")


def compute_dtype(recipe: Recipe) -> torch.dtype:
    return {"bf16": torch.bfloat16, "fp32": torch.float32, "auto": machine.compute_dtype(compute_device(recipe))}[recipe.dtype]


def judging_pairs(task: Task, heldout: Sequence[Prompt]) -> tuple[list[Any], int | None]:
    """Won and not-won prefixes from all reference players' games; the same for every stage."""
    games: list[Trajectory] = []
    for i, player in enumerate(task.players if heldout else ()):
        for opponent in task.opponents:
            games += task.play(player, heldout, luck(heldout, i), opponent)
    pairs = task.judge_pairs(games, JUDGING_PAIRS, 0)
    win_id = getattr(task, "result_token_ids", {}).get("win")
    return (pairs, win_id) if win_id is not None else ([], None)


def luck(prompts: Sequence[Prompt], salt: int) -> np.ndarray:
    return np.array([randomness.key(salt, p.id) for p in prompts], np.int64)


def measure_players(state: Run) -> None:
    """The reference players on the same prompts against every opponent -> players.jsonl."""
    file = state.folder / "players.jsonl"
    if file.exists():
        return
    names = (state.recipe.evaluation.players or state.task.players) if state.heldout else ()
    opponents = state.recipe.evaluation.opponents or state.task.opponents
    lines = []
    for player in names:
        for opponent in opponents:

            def play(prompts: Sequence[Prompt], p: str = player, o: str = opponent) -> tuple[list[Trajectory], Usage]:
                return state.task.play(p, prompts, luck(prompts, 1), o), Usage()

            m = measure(state.task, play, state.heldout, {"gold": state.gold.score})
            lines.append({"player": player, "opponent": opponent, **m.record()})
    files.write_lines(file, lines)


def new_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a new run goes: `out`, which must not exist, or runs/<name>-<n>."""
    if out is not None:
        check(not out.exists(), f"run folder {str(out)!r} exists; choose another --out, or go on with --resume {out}")
        return out
    n = 1
    while (folder := Path("runs") / f"{recipe.name}-{n}").exists():
        n += 1
    return folder


def resume_recipe(folder: Path) -> Recipe:
    """The recipe of an existing run folder."""
    file = folder / "recipe.toml"
    check(file.is_file(), f"{str(folder)!r} is no run folder (it has no recipe.toml); give what outdo run printed")
    return load_recipe(file)


def with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    if seed is None:
        return recipe
    check(seed >= 0, f"--seed {seed} is negative; use 0 or more")
    return parse({**recipe.model_dump(mode="json", by_alias=True, exclude_none=True), "seed": seed})


