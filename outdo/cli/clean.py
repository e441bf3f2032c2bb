"""`outdo clean`: delete what only resuming needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common


def clean(folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")]) -> None:
    """Delete optimiser states and leftovers of finished stages. Weights, numbers and reports stay.

    [bold]Example[/]  outdo clean runs/chess_endgame-1
    """
    from outdo.runs import lock
    from outdo.training import checkpoint

    freed = 0
    for folder in folders:
        with lock.only_one(common.run_folder(folder)):
            for done in folder.glob("stages/*/done.json"):
                for state in done.parent.glob(f"checkpoints/*/{checkpoint.FILE}"):
                    freed += checkpoint.drop_optimizer(state)
    print(f"freed {freed / 1e6:,.0f} MB")
