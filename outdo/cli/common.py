"""What several commands share: their common options, the console, and how they say an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outdo.errors import check

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 140  # columns of tables in files and logs

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value. Repeatable.")]
Target = Annotated[str, typer.Argument(metavar="CHECKPOINT | RUN[:stage]", help="A checkpoint (folder, .gguf file, fetched "
                                       "name, hub id), or a stage of a run (default: its last finished stage).")]
RecipeFile = Annotated[str | None, typer.Option("--recipe", metavar="RECIPE", help="Take the task and the gold judge from this "
                                                "recipe.")]
TaskName = Annotated[str | None, typer.Option("--task", help="Task name, for a checkpoint outside a run folder.")]


def overridden(set_: list[str] | None) -> dict[str, Any]:
    """The values of --set by dotted key. Raises UserError."""
    from outdo import recipe as recipes

    return dict(recipes.parse_override(text) for text in set_ or [])


def console() -> Console:
    """As wide as the terminal; wide enough for tables in files and logs."""
    from rich.console import Console

    made = Console()
    return made if made.is_terminal else Console(width=_PIPE_WIDTH)


def run_folder(folder: Path) -> Path:
    """The folder, if it is a run's. Raises UserError."""
    check((folder / "recipe.toml").is_file(), f"{str(folder)!r} is not a run folder: it has no recipe.toml")
    return folder


def tell(line: str) -> None:
    """Print a line that may quote data: control characters are escaped."""
    print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))


def say(line: str, code: int) -> int:
    """Print one line for the user to stderr; returns the exit code. Control characters are escaped: it may quote data."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(line.split()))
    print("outdo: " + "".join(shown), file=sys.stderr)
    return code
