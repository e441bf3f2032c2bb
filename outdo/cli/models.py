"""`outdo models`: real models to start from, and adapters to merge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Fetch models to start from, and merge LoRA adapters.")


@app.command("fetch")
def fetch_model(name: Annotated[str, typer.Argument(help="Which; smollm2 is a chat model of 135M parameters.")]) -> None:
    """Download a model, convert it once and print its folder.

    [bold]Example[/]

    outdo models fetch smollm2
    """
    from outdo.models import fetch

    print(fetch.fetch(name, lambda message: print(message, file=sys.stderr)))


@app.command("merge")
def merge_adapter(adapter: Annotated[Path, typer.Argument(help="An adapter's folder, in peft's format.")],
                  out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")]) -> None:
    """Add a LoRA adapter to its base model and write a plain checkpoint.

    [bold]Example[/]

    outdo models merge runs/arithmetic-1/stages/sft/checkpoints/60/adapter my-model
    """
    from outdo.models import adapt

    adapt.merge(adapter, out)
    print(out)
