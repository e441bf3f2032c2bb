"""`outdo inspect`: what a model would be shown of a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from outdo.cli import common
from outdo.errors import check


def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file (.jsonl, .csv, .txt, ...), a folder or a hub id.")],
    model: Annotated[str, typer.Option(help="Model whose tokenizer is used: a folder, a fetched model or a hub id.")],
    rows: Annotated[int, typer.Option(min=0, help="Number of rows to print.")] = 3,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "train",
    stream: Annotated[bool, typer.Option("--stream", help="Read rows as they come, for data larger than memory.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Truncate rows there (default: the model's context).")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Name a column. Repeatable.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Prompts train as well (train_on = 'everything').")] = False,
) -> None:
    """Show rows of data as the model sees them: which tokens train, how long rows are, what is truncated.

    [bold]Examples[/]

    outdo inspect chats.jsonl --model smollm2

    outdo inspect org/name --model org/model --split test --rows 10 --max-tokens 2048
    """
    from outdo.cli import rows as inspecting
    from outdo.cli.init import named
    from outdo.text import render
    from outdo.text import rows as text_rows

    loaded = text_rows.load(data, split, stream, named(columns))
    tokenizer, context = inspecting.open_tokenizer(model)
    renderer = render.Renderer(tokenizer, min(max_tokens or context, context), everything)
    console = common.console()
    inspecting.show_examples(console, data, loaded, renderer, rows)
    from outdo.system import progress  # seconds of imports, while there is something to read

    with progress.counting(console) as count:
        measured = inspecting.measure(loaded, renderer, count)
    console.print(inspecting.lengths(measured))
    console.print(inspecting.shares(measured, renderer.context), markup=False, highlight=False)
    inspecting.show_unusable(console, measured)
    check(not measured.bad, measured.said)
