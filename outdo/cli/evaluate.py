"""`outdo eval`: evaluate a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common
from outdo.errors import check


def evaluate(
    target: common.Target,
    recipe: common.RecipeFile = None,
    task: common.TaskName = None,
    set_: common.Overrides = None,
    opponent: Annotated[list[str] | None, typer.Option(help="Opponent to play against. Repeatable (default: all).")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Number of prompts (default: the recipe's).")] = None,
    decode: Annotated[str, typer.Option(help="sampled, greedy or both.")] = "both",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and sampling (0: those of the run's own "
                                      "evaluation).")] = 0,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file.")] = None,
) -> None:
    """Evaluate a checkpoint on a task, with 95 % confidence intervals.

    [bold]Examples[/]

    outdo eval runs/chess_endgame-1:rl --decode greedy --prompts 2000

    outdo eval my_checkpoint --task chess_endgame --set task.material=KQK --opponent perfect --json numbers.json
    """
    from outdo import recipe as recipes
    from outdo.report import terminal
    from outdo.runs import reopen
    from outdo.system import files, progress

    decodes = list(reopen.DECODES) if decode == "both" else [decode]
    check(decodes[0] in reopen.DECODES, f"--decode {decode!r} is unknown; use sampled, greedy or both")
    check(json is None or json.parent.is_dir(), f"--json {str(json)!r}: its folder does not exist; make it first")
    opened = reopen.open_checkpoint(target, recipes.find(recipe) if recipe else None, task, common.overridden(set_))
    console = common.console()
    with progress.counting(console) as count:
        records = list(reopen.measurements(opened, opponent or (), decodes, prompts, seed, count))
    console.print(terminal.measured(records))
    if json is not None:
        files.write_json(json, records)
