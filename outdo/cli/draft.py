"""The recipe that `outdo init` writes: a task over the data, and the stages that its rows can train."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outdo.errors import check
from outdo.judges.base import make_judge
from outdo.plugins import Plugin
from outdo.text import rows as text_rows
from outdo.text.columns import detected
from outdo.text.rows import Row
from outdo.text.shapes import Shape, shape_of

if TYPE_CHECKING:
    from outdo.tasks.dataset import Dataset

_HEAD = """# Written by outdo init. All keys: docs/recipe_keys.md, or outdo recipes --keys.
name = "{name}"

[task]
name = "dataset"
data = {data} # {shape}; {rows}, of which a share is held out for evaluation
# eval_data = "test.jsonl" # evaluate on these rows instead
{columns}{prompts}"""
_CHAT = "chat = true # the prompts are plain strings and the model is a chat model\n"
_JUDGE = """
[judge]
name = "function"
functions = [{reward}]

# [gold] # what you really want, if the reward is only a proxy for it: evaluated, never trained on
# name = "function"
# functions = ["my_rewards.py:gold"]
"""
_SFT = """
[stage.sft] # the rows hold answers: imitate them first
kind = "sft"
from = {model}
data = {data}
{columns}epochs = 1
"""
_RL = """
[stage.rl]
kind = "rl"
from = {start}
# steps = 100 # default: one pass over the prompts, at least 20 and at most 200 steps
# lora = {{ rank = 16 }} # less memory for large models
"""
_UNMEASURED = """
[evaluation]
prompts = 0 # {why}
"""
_PREFERENCES = """
[stage.dpo] # learn from the pairs themselves
kind = "preference"
from = {model}
data = {data}
{columns}epochs = 1
# identical = "drop" # leave out pairs whose two answers are the same

[stage.rm] # or learn to score answers as the pairs do
kind = "reward_model"
from = {model}
data = {data}
{columns}epochs = 1
"""
_RL_ON_RM = """
# [stage.rl] # and reinforce what it scores highly
# kind = "rl"
# from = {model}
# judge = {{ name = "reward_model", model = "stage:rm" }}
"""
_PREFERRED = (Shape.PREFERENCE, Shape.IMPLICIT_PREFERENCE)


@dataclass(frozen=True)
class Looked:
    """What was seen of the data."""

    first: Row
    shape: Shape
    task: Dataset | None  # None: the rows have no prompts of their own
    bare: bool  # plain strings, and the model has a chat template
    described: str
    size: str


def recipe_for(model: str, data: str, reward: str | None, columns: Mapping[str, str]) -> str:
    """The recipe's text. Raises UserError for data, models and functions that cannot be read."""
    seen = look(model, data, columns)
    preferred = seen.shape in _PREFERRED
    check(preferred or reward is not None, f"{data!r} holds {seen.shape.value} rows, which need a reward function; give one: "
          "--reward my_rewards.py:NAME")
    lacking = lacks(seen, reward) if reward else []
    check(preferred or not lacking, f"{reward!r} needs the column {', '.join(lacking)}, which {data!r} does not have "
          f"({', '.join(map(str, seen.first))}); rename its parameter, or name the column: --columns OURS=THEIRS")
    text = _HEAD.format(name=Path(data).stem.replace(" ", "_") or "mine", data=_toml(data), shape=seen.described, rows=seen.size,
                        columns=_table(columns), prompts=_prompts(seen))
    spoken = {"model": _toml(model), "data": _toml(data), "columns": _table(spoken_columns(seen, columns))}
    measured = bool(reward and seen.task and not lacking)
    if measured:
        text += _JUDGE.format(reward=_toml(reward))
    if preferred:
        why = ("give a reward function (outdo init --reward) to measure answers" if not reward else
               f"{reward} needs the column {', '.join(lacking)}, which the rows do not have" if lacking else
               "the rows have no column prompt")
        text += "" if measured else _UNMEASURED.format(why=why)
        return text + _PREFERENCES.format(**spoken) + (_RL_ON_RM.format(**spoken) if measured else "")
    answered = bool(seen.first.get("completion") or
                    any(m.get("role") == "assistant" for m in seen.first.get("messages") or ()))
    return text + (_SFT.format(**spoken) if answered else "") + _RL.format(start=_toml("sft" if answered else model))


def look(model: str, data: str, columns: Mapping[str, str]) -> Looked:
    """Read the data as the recipe will. Raises UserError."""
    from outdo.cli.rows import open_tokenizer
    from outdo.tasks.dataset import Dataset

    tokenizer, context = open_tokenizer(model)
    rows = text_rows.load(data, columns=columns)
    (first,), (raw,) = text_rows.first(data, 1, columns=columns), text_rows.first(data, 1)
    bare = bool(tokenizer.chat_template) and isinstance(first.get("prompt"), str)
    shape = Shape.PROMPT_ONLY if not ({"prompt", "messages", "chosen", "text"} & first.keys()) else shape_of(first, "row 0")
    task = None
    if shape is not Shape.IMPLICIT_PREFERENCE:
        task = Dataset.of(rows, heldout=0.0, chat=bare, max_prompt_tokens=max(context - 32, 32))
        task.bind(tokenizer)
    size = "a stream of rows" if isinstance(rows, text_rows.Stream) else f"{len(rows):,} rows"
    return Looked(first, shape, task, bare, detected(raw)[1] or ", ".join(map(str, raw)), size)


def lacks(seen: Looked, reward: str) -> list[str]:
    """Columns that the function needs and the rows do not have. Raises UserError for a function that cannot be read."""
    from outdo.runs.check import unanswered

    judge = make_judge(Plugin.model_validate({"name": "function", "functions": [reward]}))
    return judge.lacks(unanswered(seen.task.prompts("train", 1, 0)[0])) if seen.task else []


def spoken_columns(seen: Looked, columns: Mapping[str, str]) -> dict[str, str]:
    """Columns for stages that learn from the rows: under these names plain strings become messages, as the task's prompts do."""
    if not seen.bare:
        return dict(columns)
    answers = [("chosen", "chosen"), ("rejected", "rejected")] if seen.shape in _PREFERRED else [("completion", "answer")]
    theirs = {"question": columns.get("prompt", "prompt"), **{ours: columns.get(k, k) for k, ours in answers}}
    return {**{k: v for k, v in columns.items() if k not in ("prompt", *(k for k, _ in answers))}, **theirs}


def _prompts(seen: Looked) -> str:
    """The task's lines about prompts."""
    if seen.task is None:
        return ""
    n = min(200, seen.task.size("train"))
    longest = max(len(p.token_ids) for p in seen.task.prompts("train", n, 0))
    which = "the longest prompt has" if n == seen.task.size("train") else f"the longest of {n} prompts has"
    limit = f"max_prompt_tokens = {-(-longest * 5 // 64) * 16} # {which} {longest} tokens\n"
    return limit + (_CHAT if seen.bare else "")


def _table(columns: Mapping[str, str]) -> str:
    return f"columns = {{ {', '.join(f'{k} = {_toml(v)}' for k, v in columns.items())} }}\n" if columns else ""


def _toml(text: str | None) -> str:
    return json.dumps(text)
