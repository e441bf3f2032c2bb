"""`outdo play`: play against a checkpoint, or chat with it."""

from __future__ import annotations

from typing import Annotated

import typer

from outdo.cli import common


def play(
    target: common.Target,
    fen: Annotated[str | None, typer.Option(help="Start position, White to move (default: a held-out one).")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 samples as in training.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the start position and of sampling.")] = 0,
    recipe: common.RecipeFile = None,
    task: common.TaskName = None,
    set_: common.Overrides = None,
) -> None:
    """Play against a checkpoint in the terminal, or chat with it if its task is text.

    In a game of chess you play Black. If the model makes an illegal move, you win.

    [bold]Examples[/]

    outdo play runs/chess_endgame-1:rl --seed 7

    outdo play runs/chess_endgame-1:sft --fen '8/8/8/4k3/8/8/8/K6R w - - 0 1' --temperature 1
    """
    from outdo import recipe as recipes
    from outdo.cli import board, chat
    from outdo.runs import reopen
    from outdo.tasks.text.task import TextTask

    opened = reopen.open_checkpoint(target, recipes.find(recipe) if recipe else None, task, common.overridden(set_))
    if isinstance(opened.task, TextTask):
        chat.talk(opened, temperature, seed, common.console(), input)
    else:
        board.game(opened, fen, temperature, seed, common.console(), input)
