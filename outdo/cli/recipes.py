"""`outdo recipes`: the recipes that come with outdo."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    keys: Annotated[bool, typer.Option("--keys", help="Print all recipe keys with defaults and meanings.")] = False,
) -> None:
    """List the recipes that come with outdo. Run one with: outdo run NAME.

    [bold]Examples[/]

    outdo recipes

    outdo recipes --keys > recipe_keys.md
    """
    if keys:
        from outdo.cli.keys import reference

        print(reference(), end="")
        return
    from rich.table import Table

    from outdo import recipe
    from outdo.cli import common

    table = Table("name", "what it does", "file", box=None)
    for name, file in recipe.shipped().items():
        first = next((line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")), "#")
        table.add_row(name, first.lstrip("# "), str(file))
    common.console().print(table)
