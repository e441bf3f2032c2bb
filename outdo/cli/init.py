"""`outdo init`: write a recipe for one's own model, data and reward, after looking at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common
from outdo.errors import check

_RECIPE = """# Written by outdo init. All keys: docs/recipe_keys.md, or outdo recipes --keys.
name = "{name}"

[task]
name = "dataset"
data = "{data}" # {shape}; {rows:,} rows, of which a share is held out for evaluation
# eval_data = "test.jsonl" # evaluate on these rows instead
{columns}max_prompt_tokens = {prompt_tokens} # the longest prompt has {longest} tokens
{system}
[judge]
name = "function"
functions = ["{reward}"]

# [gold] # what you really want, if the reward is only a proxy for it: evaluated, never trained on
# name = "function"
# functions = ["my_rewards.py:gold"]
{sft}
[stage.rl]
kind = "rl"
from = "{start}"
# steps = 100 # default: one pass over the prompts, at least 20 and at most 200 steps
# lora = {{ rank = 16 }} # less memory for large models
"""
_SFT = """
[stage.sft] # the rows hold answers: imitate them first
kind = "sft"
from = "{model}"
data = "{data}"
{columns}epochs = 1
"""


def init(
    model: Annotated[str, typer.Option(help="Checkpoint to start from: a folder, a fetched model or a hub id.")],
    data: Annotated[str, typer.Option(help="Rows with prompts: a file, a folder or a hub id.")],
    reward: Annotated[str, typer.Option(metavar="FILE.py:NAME", help="Reward function, as TRL or verl call it.")],
    out: Annotated[Path, typer.Option(help="Recipe file to write.")] = Path("recipe.toml"),
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Name a column. Repeatable.")] = None,
) -> None:
    """Write a commented recipe for your model, data and reward function.

    [bold]Example[/]

    outdo init --model smollm2 --data questions.jsonl --reward my_rewards.py:correct
    """
    check(not out.exists(), f"{str(out)!r} exists; choose another --out")
    out.write_text(recipe_for(model, data, reward, named(columns)), encoding="utf-8")
    from outdo import recipe

    recipe.load(out)
    common.console().print(f"wrote {out}; next: outdo run {out} --dry-run", highlight=False, soft_wrap=True)


def named(columns: list[str] | None) -> dict[str, str]:
    """`prompt=question` -> {"prompt": "question"}. Raises UserError."""
    pairs = [text.partition("=") for text in columns or []]
    for ours, sign, theirs in pairs:
        check(bool(sign and ours and theirs), f"--columns {ours}{sign}{theirs!r}: write OURS=THEIRS, for example prompt=question")
    return {ours: theirs for ours, _, theirs in pairs}


def recipe_for(model: str, data: str, reward: str, columns: dict[str, str]) -> str:
    """The recipe's text. Raises UserError for data, models and functions that cannot be read."""
    from outdo import plugins
    from outdo.cli.rows import open_tokenizer
    from outdo.tasks.dataset import Dataset
    from outdo.text import rows as text_rows
    from outdo.text.columns import detected

    plugins.load(reward)
    tokenizer, context = open_tokenizer(model)
    rows = text_rows.load(data, columns=columns)
    (first,) = text_rows.first(data, 1, columns=columns)
    task = Dataset.of(rows, heldout=0.0, max_prompt_tokens=max(context - 32, 32))
    task.bind(tokenizer)
    sizes = [len(p.token_ids) for p in task.prompts("train", min(200, task.size("train")), 0)]
    longest = max(sizes)
    answered = bool(first.get("completion") or any(m.get("role") == "assistant" for m in first.get("messages") or ()))
    table = f"columns = {{ {', '.join(f'{k} = {chr(34)}{v}{chr(34)}' for k, v in columns.items())} }}\n" if columns else ""
    bare = isinstance(first.get("prompt"), str) and bool(tokenizer.chat_template)
    (raw,) = text_rows.first(data, 1)
    shape = detected(raw)[1] or ", ".join(map(str, raw))
    return _RECIPE.format(
        name=Path(data).stem.replace(" ", "_") or "mine", data=data, reward=reward, columns=table, shape=shape,
        rows=len(rows) if not isinstance(rows, text_rows.Stream) else 0, longest=longest,
        prompt_tokens=-(-longest * 5 // 64) * 16, start="sft" if answered else model,
        system="chat = true # the prompts are plain strings and the model is a chat model\n" if bare else "",
        sft=_SFT.format(model=model, data=data, columns=table) if answered else "")
