"""`outdo compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of one recipe, one per seed.")],
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables and verdicts to this file.")] = None,
) -> None:
    """Compare runs: scores, cost and verdicts, with confidence intervals over seeds and prompts.

    [bold]Example[/]

    outdo compare runs/endgames-seed0 runs/endgames-seed1 runs/endgames-seed2 --markdown table.md
    """
    from rich.markdown import Markdown

    from outdo.compare import table
    from outdo.system import files

    text = table.markdown(table.gather(runs))
    if markdown is not None:
        files.write_text(markdown, text)
    common.console().print(Markdown(text))
