"""`outdo report`: write the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outdo.cli import common

if TYPE_CHECKING:
    from rich.console import Console


def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write report.html from the files of a run folder.

    [bold]Example[/]  outdo report runs/chess_endgame-1
    """
    build(common.run_folder(folder), common.console())


def build(folder: Path, console: Console) -> None:
    """Write the report and say where it is."""
    from outdo import report as page

    console.print(f"report: {page.build(folder)}", highlight=False, soft_wrap=True)
