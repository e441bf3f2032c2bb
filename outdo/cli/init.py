"""`outdo init`: write a recipe for one's own model, data and reward, after looking at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common
from outdo.errors import check


def init(
    model: Annotated[str, typer.Option(help="Checkpoint to start from: a folder, a fetched model or a hub id.")],
    data: Annotated[str, typer.Option(help="Rows with prompts: a file, a folder or a hub id.")],
    reward: Annotated[str | None, typer.Option(metavar="FILE.py:NAME", help="Reward function, as TRL or verl call it. "
                                               "Preference rows need none.")] = None,
    out: Annotated[Path, typer.Option(help="Recipe file to write.")] = Path("recipe.toml"),
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Name a column. Repeatable.")] = None,
) -> None:
    """Write a commented recipe for your model, data and reward function.

    Rows with prompts, and answers if there are any, get SFT and RL. Preference rows (chosen, rejected) get DPO and a reward
    model.

    [bold]Examples[/]

    outdo init --model smollm2 --data questions.jsonl --reward my_rewards.py:correct

    outdo init --model smollm2 --data preferences.jsonl
    """
    from outdo import recipe
    from outdo.cli import draft

    check(not out.exists(), f"{str(out)!r} exists; choose another --out")
    out.write_text(draft.recipe_for(model, data, reward, named(columns)), encoding="utf-8")
    recipe.load(out)
    common.console().print(f"wrote {out}; next: outdo run {out} --dry-run", highlight=False, soft_wrap=True)


def named(columns: list[str] | None) -> Mapping[str, str]:
    """`prompt=question` -> {"prompt": "question"}. Raises UserError."""
    pairs = [text.partition("=") for text in columns or []]
    for ours, sign, theirs in pairs:
        check(bool(sign and ours and theirs), f"--columns {ours}{sign}{theirs!r}: write OURS=THEIRS, for example prompt=question")
    return {ours: theirs for ours, _, theirs in pairs}
