"""`outdo compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of one recipe, one per seed; or two "
                                               "runs of different recipes with the same task and gold judge.")],
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables and verdicts to this file.")] = None,
) -> None:
    """Compare runs: scores and cost, with confidence intervals over seeds and prompts.

    Runs that differ only in their seed are put together, with verdicts over all of them. Two runs of different recipes are
    compared at the ends of their stages, prompt by prompt, if they were measured alike.

    [bold]Examples[/]

    outdo compare runs/endgames-seed0 runs/endgames-seed1 runs/endgames-seed2 --markdown table.md

    outdo compare runs/grpo-1 runs/rloo-1
    """
    from rich.markdown import Markdown

    from outdo.compare import table, two_runs
    from outdo.system import files

    text = two_runs.markdown(*map(table.one, runs)) if table.different(runs) else table.markdown(table.gather(runs))
    if markdown is not None:
        files.write_text(markdown, text)
    common.console().print(Markdown(text))
