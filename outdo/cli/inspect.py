"""`outdo inspect`: what a model would be shown of a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from outdo.cli import common


def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file (.jsonl, .json, .csv, .parquet), a folder or a hub id.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer: a model folder, a fetched model or a hub id.")],
    rows: Annotated[int, typer.Option(min=0, help="How many examples are printed.")] = 3,
    split: Annotated[str, typer.Option(help="Of data that has several.")] = "train",
    stream: Annotated[bool, typer.Option("--stream", help="Read rows as they come: data larger than memory.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Cut rows there, if not at the model's context.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="As train_on = 'everything': prompts train, too.")] = False,
) -> None:
    """Show rows of data as a model is shown them: what trains, how long they are, what is cut.

    [bold]Examples[/]

    outdo inspect chats.jsonl --model smollm2

    outdo inspect org/name --model org/model --split test --rows 10 --max-tokens 2048
    """
    from outdo.cli import rows as inspecting
    from outdo.text import render
    from outdo.text import rows as text_rows

    loaded = text_rows.load(data, split, stream)
    tokenizer, context = inspecting.open_tokenizer(model)
    renderer = render.Renderer(tokenizer, min(max_tokens or context, context), everything)
    console = common.console()
    inspecting.show_examples(console, data, loaded, renderer, rows)
    from outdo.system import progress  # seconds of imports, while there is something to read

    with progress.counting(console) as count:
        rendered = inspecting.measure(loaded, renderer, count)
    console.print(inspecting.lengths(rendered))
    console.print(inspecting.shares(rendered, renderer.context), markup=False, highlight=False)
