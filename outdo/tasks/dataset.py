"""Any table of prompts as a task: JSON lines, Parquet, CSV, a dataset of the hub, or rows given from Python.

Column shapes as TRL users have them: `prompt` (a string, or messages), `messages` (the prompt ends before the last assistant
turn), or `question`. All other columns go to the judge. Splits are decided by the prompt's text: no prompt is in two. With
`tools` or an `environment` the model may call functions and goes on after their results, up to `max_turns` replies.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from outdo import plugins
from outdo.errors import UserError, check, nearest
from outdo.interop import openrlhf as from_openrlhf
from outdo.interop.partners import Partner
from outdo.plugins import Plugin
from outdo.system import randomness
from outdo.tasks.base import Episodes
from outdo.tasks.text import tools as tooling
from outdo.tasks.text.task import TextOptions, TextTask, split_of
from outdo.text import chat
from outdo.text import rows as text_rows
from outdo.text.chat import Messages, without_none
from outdo.text.overlap import Withheld, words_of
from outdo.text.shapes import check_roles
from outdo.types import IntArray, Prompt

Factory = Callable[[], Any] | Mapping[str, Callable[[], Any]]  # of environments; several by name, chosen by a column
FEW = 10  # with fewer rows nothing is held out
_LOOKED_AT = 1000  # rows whose answers say how long replies may get
_TOO_MANY = 0.5  # of a split's prompts longer than the limit: the limit is wrong, not the prompts


class Dataset(TextTask):
    """Replies to the prompts of a table; the judge says how good they are."""

    name = "dataset"
    judge = "function"

    class Config(TextOptions):
        """Options of dataset."""

        data: str = ""  # a .jsonl, .json, .csv or .parquet file, a folder of them, or a dataset id of the hub
        eval_data: str = ""  # rows to measure on: a file, or data:split (default: the data's test split, or a share of its rows)
        columns: dict[str, str] = Field(default_factory=dict)  # our column = the data's, for example { prompt = "instruction" }
        split_by: str | None = None  # a column: rows with the same value stay on one side (default: rows with the same prompt)
        chat: bool = False  # give prompts that are strings as a user's message, through the chat template
        validation: float = Field(default=0.0, ge=0, lt=1)  # share of the prompts kept apart for choices of your own
        heldout: float = Field(default=0.15, ge=0, le=1)  # 1: only measured
        tools: tuple[str, ...] = ()  # functions that the model may call: "my_tools.py:search"
        # A class with reset(**row) and typed methods as tools, "my_games.py:Wordle"; or several by name, of which each row's
        # column `environment` says its own; or a class of `Partner`, or an agent of OpenRLHF, who answer in their own words.
        environment: str | dict[str, str] | None = None
        max_turns: int = Field(default=4, ge=1)  # replies in one conversation with tools
        max_tool_tokens: int = Field(default=256, ge=1)  # longer results are cut
        # In a conversation of several turns: "append" continues the sampled tokens, so earlier thoughts stay in the context;
        # "render" applies the chat template anew before each turn, as at inference, and each turn trains as a sample of its own.
        history: Literal["append", "render"] = "append"

    config: Config

    def __init__(self, config: Config | None = None, rows: Iterable[Mapping[str, Any]] | None = None,
                 tools: Sequence[Callable[..., Any]] = (), environment_factory: Factory | None = None,
                 eval_rows: Iterable[Mapping[str, Any]] | None = None) -> None:
        c = config or self.Config()
        check(c.validation + c.heldout <= 1, f"validation = {c.validation} and heldout = {c.heldout} are more than there is")
        super().__init__(c)
        self._given, self._given_eval = rows, eval_rows
        self._tools = {t.__name__: t for t in [*tools, *(plugins.load(t) for t in c.tools)]}
        environment = c.environment or environment_factory
        self._by_name = isinstance(environment, Mapping)  # rows choose their environment
        several = environment if isinstance(environment, Mapping) else {"": environment} if environment else {}
        found = {n: plugins.load(f) if isinstance(f, str) else f for n, f in several.items()}
        self._factories: dict[str, Any] = {n: from_openrlhf.adapted(f) for n, f in found.items()}
        self._measure()
        made = {n: tooling.made(f) for n, f in self._factories.items()}
        answering = any(isinstance(e, Partner) for e in made.values())
        check(not (answering and self._tools), "tools go with a policy that calls them, and a partner answers every reply "
              "itself; give one or the other")
        self._described = {n: tooling.schemas({**self._tools, **tooling.methods(e)}) for n, e in made.items()}
        if not self._factories:
            self._described[""] = tooling.schemas(self._tools)
        self._pools: dict[str, list[dict[str, Any]]] = {}
        self._splits: dict[str, list[dict[str, Any]]] = {}
        self._dropped: dict[str, tuple[int, int]] = {}  # split: (prompts longer than the limit, all)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]] | None, tools: Sequence[Callable[..., Any]] = (),
           environment_factory: Factory | None = None, **options: Any) -> Self:
        """A task over rows given from Python (a list of dicts, a datasets.Dataset, ...), with the options of Config."""
        return cls(plugins.configured("tasks", Plugin(name=cls.name, **options), cls), rows, tools, environment_factory)

    @property
    def one_reply(self) -> bool:
        """Whether nothing answers the policy's replies."""
        return not self._tools and not self._factories

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.bind`. Replies may be half as long again as the longest answer in the data, where it has answers."""
        super().bind(tokenizer)
        self._pools.clear()
        if "max_new_tokens" in self.config.model_fields_set or not self.one_reply or not (self.config.data or self._given):
            return
        rows = text_rows.first(self._source, _LOOKED_AT, columns=self.config.columns)
        answers = [a for row in rows if (a := _answer(row))]
        if len(answers) == len(rows):
            longest = max(len(chat.encode(tokenizer, a)) for a in answers)
            most = self.Config.model_fields["max_new_tokens"].default
            self._set({"max_new_tokens": min(most, max(16, -(-longest * 3 // 16) * 8))})

    def _measure(self) -> None:
        """See `TextTask._measure`: conversations have several turns."""
        super()._measure()
        if getattr(self, "_tools", None) or getattr(self, "_factories", None):
            c = self.config
            self.max_tokens += (c.max_turns - 1) * (c.max_new_tokens + c.max_tool_tokens)

    @functools.cached_property
    def _rows(self) -> list[dict[str, Any]]:
        """All rows, each with its `prompt`."""
        check(self._given is not None or bool(self.config.data), "task dataset has no data; set task.data = 'file.jsonl'")
        rows = text_rows.load(self._source, columns=self.config.columns)
        name = self.config.data or "the dataset"
        return [self._columns(row, i, name) for i, row in enumerate(rows)]

    @property
    def _source(self) -> Any:
        return self.config.data if self._given is None else self._given

    @functools.cached_property
    def _eval_rows(self) -> list[dict[str, Any]] | None:
        """Rows of their own to measure on: `eval_data`, or the data's own test split; None: a share of the rows."""
        if self._given_eval is None and not self.config.eval_data:
            if self.config.heldout == 1 or "test" not in text_rows.splits(self._source):
                return None
            rows, name = text_rows.load(self._source, "test", columns=self.config.columns), "the test split"
        else:
            source = self._given_eval if self._given_eval is not None else self.config.eval_data
            rows, name = text_rows.load(source, columns=self.config.columns), self.config.eval_data or "eval_dataset"
        return [self._columns(row, i, name) for i, row in enumerate(rows)]

    def _split_rows(self, split: str) -> list[dict[str, Any]]:
        """The rows that fall to a split. No prompt that is measured on trains."""
        if split not in self._splits:
            self._splits[split] = self._chosen(split)
        return self._splits[split]

    def _chosen(self, split: str) -> list[dict[str, Any]]:
        c, measured = self.config, self._eval_rows
        if measured is not None and split == "heldout":
            return measured
        if len(self._rows) < FEW and measured is None and 0 < c.heldout < 1:  # a handful: all of it trains
            return self._rows if split == "train" else []
        share = 0.0 if measured is not None else c.heldout
        rows = [r for r in self._rows if split_of(self._side(r), c.validation, share) == split]
        if measured is None:
            return rows
        known = Withheld(words_of(r["prompt"]) for r in measured)
        return [r for r in rows if not known.holds(r)]

    def _side(self, row: Mapping[str, Any]) -> str:
        """What decides on which side of the split a row falls."""
        if self.config.split_by is None:
            return words_of(row["prompt"]) or json.dumps(row)
        check(self.config.split_by in row, f"task.split_by = {self.config.split_by!r}: no such column"
              f"{nearest(self.config.split_by, list(row))}")
        return json.dumps(row[self.config.split_by], sort_keys=True)

    def withheld(self, split: str, n: int) -> list[str]:
        """See `Task.withheld`: all prompts that never train here."""
        del split, n
        return [words_of(r["prompt"]) for s in ("validation", "heldout") for r in self._split_rows(s)]

    def _columns(self, row: Mapping[str, Any], i: int, name: str) -> dict[str, Any]:
        empty = [{"role": "user", "content": ""}] if self._factories else None  # reset() says it all
        prompt = _prompt(row, self.config.chat) or empty
        if self._by_name:
            chosen = row.get("environment")
            check(chosen in self._factories, f"row {i} of {name} has environment = {chosen!r}; the column names one of "
                  f"{', '.join(self._factories)}")
        check(bool(prompt), f"row {i} of {name} has no prompt; it needs a column prompt (text or messages), messages or "
              f"question, and has {', '.join(row) or 'none'}; name yours: columns = {{ question = \"theirs\" }}")
        check_roles(prompt, f"row {i} of {name}")
        columns = {k: v for k, v in row.items() if k not in ("prompt", "completion")}
        if "answer" not in columns and (known := _answer(row)):
            columns["expected"] = known  # what the row itself answers, for readers of the report
        return json.loads(json.dumps({"prompt": prompt, **columns}, default=_plain))  # type: ignore[no-any-return]

    def _pool(self, split: str) -> list[dict[str, Any]]:
        """The split's rows whose prompts fit, in the order of the data."""
        if split not in self._pools:
            c, kept = self.config, []
            rows = self._split_rows(split)
            longest = 0
            for row in rows:
                row = self._shown(row)
                tokens = len(self.encode(row))
                longest = max(longest, tokens)
                if tokens <= c.max_prompt_tokens:
                    kept.append(row)
            dropped = len(rows) - len(kept)
            check(bool(rows), f"split {split!r} of {c.data or 'the dataset'} has none of the {len(self._rows)} rows; "
                  f"{self._why_empty(split)}")
            check(dropped <= _TOO_MANY * len(rows), f"max_prompt_tokens = {c.max_prompt_tokens} leaves out {dropped} of the "
                  f"{len(rows)} prompts of split {split!r}, the longest has {longest} tokens; raise task.max_prompt_tokens")
            self._pools[split], self._dropped[split] = kept, (dropped, len(rows))
        return self._pools[split]

    def _why_empty(self, split: str) -> str:
        if len({self._side(r) for r in self._rows}) == 1:
            return ("all rows have the same prompt, and rows with the same prompt stay on one side; name a file to measure on "
                    "(task.eval_data), or a column that tells rows apart (task.split_by)")
        if len(self._rows) < FEW and split != "train":
            return (f"fewer than {FEW} rows all train and none are held out; name a file to measure on (task.eval_data), or set "
                    "evaluation.prompts = 0")
        return "add rows, or change the shares task.validation and task.heldout"

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its prompt as the policy sees it: system message, tools, the environment's first words."""
        prompt, described = self.with_system(row["prompt"]), self.tool_schemas(row)
        if not described and not self._factories:
            return {**row, "prompt": prompt}
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if self._factories:
            said = self._begin(row)[1]
            messages = [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}{said}"}]
            row = {**row, "asked": row["prompt"]}
        return {**row, "prompt": tooling.introduce(self.tokenizer(), messages, described)}

    def _begin(self, row: Mapping[str, Any]) -> tuple[Any, str]:
        """The row's environment, reset, and what it says at first. The column that chose it is not handed on, as in TRL."""
        columns = {k: v for k, v in row.items() if k != "environment" or not self._by_name}
        return tooling.begin(self._factories[self._which(row)], columns)

    def _which(self, row: Mapping[str, Any]) -> str:
        return str(row["environment"]) if self._by_name else ""

    def tool_schemas(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `TextTask.tool_schemas`."""
        return self._described[self._which(row)]

    def episodes(self, prompts: Sequence[Prompt], seeds_R: IntArray, opponent: str | None = None) -> Episodes:
        """See `Task.episodes`."""
        if self.one_reply:
            return super().episodes(prompts, seeds_R, opponent)
        environments = []
        for prompt in prompts if self._factories else ():
            row = {**{k: v for k, v in prompt.row.items() if k != "asked"}, "prompt": prompt.row["asked"]}
            environment, said = self._begin(row)
            same = str(prompt.row["prompt"][-1]["content"]).endswith(said)
            check(same, f"environment {type(environment).__name__}: reset() said something else the second time for "
                  f"{prompt.id}; derive its random numbers from a column, for example a seed")
            environments.append(environment)
        return tooling.Conversations(self.tokenizer(), prompts, self._tools, environments, self.stop_ids, self.config.max_turns,
                                     self.config.max_tool_tokens, self.config.history == "render")

    def size(self, split: str) -> int:
        """See `Task.size`. 0 where a handful of rows leaves nothing to measure on."""
        return len(self._pool(split)) if self._split_rows(split) else 0

    def row(self, split: str, seed: int, number: int) -> dict[str, Any]:
        """See `TextTask.row`. Training goes round and round, in a new order each time; measuring takes each prompt once."""
        pool = self._pool(split)
        if split != "train" and number >= len(pool):
            raise UserError(f"split {split!r} has {len(pool)} prompts, and measuring one twice would only pretend to know "
                            f"more; set evaluation.prompts = {len(pool)} or less")
        return pool[_order(len(pool), randomness.key(seed, split, number // len(pool)))[number % len(pool)]]

    def describe(self) -> str:
        """What each split holds, as far as it has been used, and which environments answer."""
        limit = f"longer than {self.config.max_prompt_tokens} tokens dropped"
        parts = [f"{split} {total - dropped} prompts" + (f" ({dropped} {limit})" if dropped else "")
                 for split, (dropped, total) in self._dropped.items()]
        kinds = [getattr(f, "__name__", type(f).__name__) for f in self._factories.values()]
        answering = f"; environment {', '.join(kinds)}" if kinds else ""
        if not self.one_reply and self.config.history == "append" and chat.rewrites_turns(self.tokenizer()):
            answering += ("; the chat template drops earlier thoughts when a conversation goes on, and rollouts keep them "
                          "(history = 'append'); history = 'render' follows the template")
        if "train" in self._dropped and self._eval_rows is None and len(self._rows) < FEW and 0 < self.config.heldout < 1:
            answering += f"; warning: with fewer than {FEW} rows all of them train and nothing is held out to measure on"
        return f"{self.config.data or 'rows'}: {', '.join(parts)}{answering}" if parts else ""


@functools.lru_cache(8)
def _order(n: int, key: int) -> list[int]:
    return [int(i) for i in randomness.permutation(n, key)]


def _prompt(row: Mapping[str, Any], as_messages: bool) -> str | Messages | None:
    """The prompt in any of the shapes; None if the row has none of them."""
    if row.get("prompt"):
        prompt: str | Messages = without_none(row["prompt"])
        return [{"role": "user", "content": prompt}] if as_messages and isinstance(prompt, str) else prompt
    if row.get("messages"):
        messages: Messages = without_none(row["messages"])
        asked = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
        return messages[: asked[-1]] if asked else messages
    return [{"role": "user", "content": str(row["question"])}] if row.get("question") else None


def _answer(row: Mapping[str, Any]) -> str | None:
    """The reply that a row of demonstrations holds: its completion, or the last of its conversation."""
    said = row.get("completion") or [m for m in row.get("messages") or () if m.get("role") == "assistant"]
    return said if isinstance(said, str) else str(said[-1].get("content")) if said else None


def _plain(value: Any) -> Any:
    """Arrays and scalars as lists and numbers, whatever else (dates, ...) as text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
