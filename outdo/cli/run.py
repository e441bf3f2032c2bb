"""`outdo run`: run a recipe, or resume a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outdo.cli import common
from outdo.errors import UserError, check
from outdo.runs import lock

if TYPE_CHECKING:
    from rich.console import Console

    from outdo.recipe import Recipe
    from outdo.runs.check import Checked
    from outdo.runs.plan import Plan


def run(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a recipe that comes with "
                                                 "outdo (see outdo recipes).")] = None,
    set_: common.Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (default: the recipe's).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for this run (default: runs/<name>-<n>).")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Resume an interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe, the plan and its cost.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start training even if the pre-flight check finds no learning "
                                        "signal.")] = False,
) -> None:
    """Run a recipe: train and evaluate every stage, then write the report.

    [bold]Examples[/]

    outdo run chess_endgame --dry-run

    outdo run recipe.toml (written by outdo init, for your model, data and reward)

    outdo run my_recipe.toml --set stage.rl.steps=50 --seed 1 --out runs/try

    outdo run --resume runs/try
    """
    config = _chosen(recipe, set_, seed, out, resume)
    console = common.console()
    from outdo import recipe as recipes
    from outdo.runs import plan
    from outdo.runs.check import check_recipe
    from outdo.runs.folder import check_resumable, new_folder
    from outdo.runs.resolve import resolve
    from outdo.system import files

    config = recipes.forced(config) if force else config
    with _resuming(resume) if resume and not dry_run else nullcontext():
        if resume:
            check_resumable(config, resume, force)
        checked = check_recipe(resolve(config))
        planned = plan.make(checked, resume)
        if dry_run:
            console.print(shown(checked), markup=False, highlight=False, soft_wrap=True)
        console.print(plan.render(planned))
        if dry_run:
            return
        if resume:
            if force:
                files.write_text(resume / "recipe.toml", config.to_toml())
            _work(checked, resume, planned, console)
    if not resume:
        with (lock.new_folder(lambda: new_folder(config, out)) as folder, lock.endings(folder), lock.only_one(folder)):
            _work(checked, folder, planned, console)


def _chosen(recipe: str | None, set_: list[str] | None, seed: int | None, out: Path | None, resume: Path | None) -> Recipe:
    """The recipe of a new or of an interrupted run; needs no torch."""
    from outdo import recipe as recipes

    if resume is not None:
        given = {"RECIPE": recipe, "--set": set_, "--seed": seed, "--out": out}
        extra = " and ".join(name for name, value in given.items() if value not in (None, []))
        check(not extra, f"--resume uses the run's own recipe; leave out {extra}, or start a new run")
        return recipes.load(common.run_folder(resume) / "recipe.toml")
    if recipe is None:
        raise UserError("no recipe; for example: outdo run chess_endgame, or outdo run --resume DIR")
    overrides = common.overridden(set_)
    return recipes.load(recipes.find(recipe), overrides if seed is None else {**overrides, "seed": seed})


_PLAYERS = ("player", "random_moves", "keep", "split")  # keys of stages that imitate a player
_ROWS = ("data_split", "stream", "documents", "columns", "truncate", "turns", "epochs", "heldout")  # and of those with data


def shown(checked: Checked) -> str:
    """The resolved recipe as TOML, without the keys that mean nothing for its task and its start."""
    from outdo import recipe as recipes

    data = checked.recipe.model_dump(mode="json", by_alias=True)
    games = [] if checked.task.players and checked.task.opponents != ("none",) else ["opponents"]
    for name, stage in data["stage"].items():
        idle = list(games)
        if "player" in stage:  # it imitates: rows of data, or a player
            idle += _PLAYERS if stage.get("data") else _ROWS
        data["stage"][name] = {k: v for k, v in stage.items() if k not in idle}
    if all(checked.recipe.checkpoint(name) is not None for name in checked.recipe.stage):
        del data["model"]
    if games:
        data["evaluation"] = {k: v for k, v in data["evaluation"].items() if k not in ("opponents", "players")}
    return recipes.dumps(data)


@contextmanager
def _resuming(folder: Path) -> Iterator[None]:
    with lock.endings(folder), lock.only_one(folder):
        yield


def _work(checked: Checked, folder: Path, planned: Plan, console: Console) -> None:
    from outdo.report import terminal
    from outdo.runs import run as runs
    from outdo.system import files, progress

    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)
    try:
        with progress.display(console, planned) as show:
            summary = files.read_json(runs.run(checked, folder, show, planned))
    except UserError:
        if (folder / "summary.json").exists():
            _report_or_warn(folder, console)
        raise
    console.print(terminal.results(summary))
    console.print(terminal.utilisation(summary, files.read_json(folder / "environment.json")), highlight=False, style="dim")
    _report_or_warn(folder, console)


def _report_or_warn(folder: Path, console: Console) -> None:
    """A finished run stays a finished run, whatever happens to its report."""
    from outdo.cli.report import build

    try:
        build(folder, console)
    except Exception as e:
        if os.environ.get("OUTDO_DEBUG"):
            raise
        print(f"outdo: warning: no report ({type(e).__name__}: {e}); the run is complete, try: outdo report {folder}",
              file=sys.stderr)
