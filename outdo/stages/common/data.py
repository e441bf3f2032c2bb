"""What stages that learn from rows of data share: options, how long they last, and the rows batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from outdo.errors import check
from outdo.recipe import StageConfig
from outdo.stages.base import DataChecks, Given
from outdo.text import heldout, rows
from outdo.text.shapes import COLUMNS, Shape, same_answers, shape_of
from outdo.text.usable import summary, unusable
from outdo.types import Sample, Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop
    from outdo.text.render import Renderer

_LOOKED_AT = 64  # rows, before anything long begins


class DataConfig(StageConfig):
    """Which rows of data a stage learns from."""

    data: str | None = None  # a file, a folder or a hub id (org/name, org/name:config)
    data_split: str = "train"  # of data that has several
    columns: dict[str, str] = Field(default_factory=dict)  # our column = the data's: { prompt = "text", completion = "class" }
    documents: Literal["paragraphs", "file"] = "paragraphs"  # what a row is in a .txt file: between empty lines, or all of it
    episodes: int = Field(default=64, ge=1)  # rows per optimiser step
    epochs: int = Field(default=1, ge=1)  # passes over the rows, where neither steps nor flops end the stage
    truncate: Literal["cut", "drop", "error"] = "cut"  # rows that are longer than max_tokens
    stream: bool = False  # read data as it comes, shuffled in windows of 10,000 rows: for what does not fit into memory
    # Rows with several answers: one text each ("together"), one for each answer, rendered as at inference ("apart"), or "apart"
    # only where the chat template drops earlier thoughts ("auto").
    turns: Literal["auto", "together", "apart"] = "auto"
    max_tokens: int | None = Field(default=None, ge=2)  # rows are cut there; None: at the model's context
    heldout: float = Field(default=0.05, ge=0, lt=1)  # share of the rows, by hash, that never train: they are measured on
    heldout_data: str | None = None  # rows for that instead: the name of a split of data, or a file, a folder, a hub id
    train_on: Literal["moves", "moves+result", "everything"] = "moves"  # which tokens train; of rows: answers or everything

    @property
    def tries_task(self) -> bool:
        """Rows of data leave the task alone."""
        return self.data is None

    @property
    def ends_by_itself(self) -> bool:
        """Rows of data are passed over `epochs` times."""
        return self.data is not None and not self.stream


def check_rows(config: DataConfig, loaded: rows.Rows, look: Callable[[rows.Row, str], object]) -> None:
    """Look at every row, unless they are a stream. Raises UserError that names the first one that cannot be used."""
    found = [] if isinstance(loaded, rows.Stream) else list(
        unusable(loaded, lambda row, i: None if dropped(config, row) else look(row, f"{config.data}, row {i}")))
    check(not found, summary(found, len(loaded)) if found else "")  # type: ignore[arg-type]


def dropped(config: DataConfig, row: rows.Row) -> bool:
    """Whether the stage leaves the row out because its two answers are the same."""
    return getattr(config, "identical", "error") == "drop" and same_answers(row)


def first_used(config: DataConfig, loaded: rows.Rows, n: int) -> list[tuple[int, rows.Row]]:
    """The first n rows that the stage does not leave out for their equal answers, with their numbers."""
    return list(itertools.islice(((i, row) for i, row in enumerate(loaded) if not dropped(config, row)), n))


def length(config: DataConfig, loaded: rows.Rows, data: DataChecks) -> dict[str, Any]:
    """How many steps the passes over the rows take; rows that the task measures on are found and told. Raises UserError."""
    if config.stream:
        return {}
    measured, theirs = heldout.choose(config, loaded, data.given.heldout_rows)
    left = [row for i, row in enumerate(loaded) if not (theirs and i in measured)]
    alike = sum(dropped(config, row) for row in left)
    left = [row for row in left if not dropped(config, row)] if alike else left
    if alike:
        data.note(f"{alike:,} of {alike + len(left):,} rows are left out: chosen and rejected are the same")
    check(bool(left), f"{config.data}: in all {alike} rows chosen and rejected are the same, so nothing trains; give other rows")
    withheld = sum(data.withheld.holds(row) for row in left) if data.withheld else 0
    if withheld:
        data.note(f"{withheld:,} of {len(left):,} rows are left out: their prompts are measured on (held out by the task)")
    check(withheld < len(left), f"{config.data}: the task measures on the prompts of all {len(left)} rows, so none "
          "may train; give other rows, or hold out fewer (task.heldout)")
    if config.steps is not None or data.flops is not None:
        return {}
    return {"steps": -(-(len(left) - withheld) * config.epochs // config.episodes)}


def note_form(config: DataConfig, first: rows.Row, data: DataChecks) -> None:
    """Note where a stage trains in one form and the task asks in another: with the chat template or without, a system message."""
    shape, asked = shape_of(first, f"{config.data}, row 0"), data.asked
    if not data.tokenizer.chat_template or asked is None or shape is Shape.TEXT or config.train_on == "everything":
        return
    column = COLUMNS[shape][0]
    trains, wrong = first[column], "so the model learns in another form than it is asked in"
    if isinstance(trains, str) and not isinstance(asked, str):
        wanted = ["question", "chosen", "rejected"] if "chosen" in first else ["question", "answer"]
        own = {"question": "prompt", "answer": "completion"}
        named = ", ".join(f'{ours} = "{config.columns.get(own.get(ours, ours), own.get(ours, ours))}"' for ours in wanted)
        data.note("warning: the rows hold plain strings, which train without the chat template, and the task asks with it, "
                  f"{wrong}; make them messages (columns = {{ {named} }}), or set task.chat = false")
    elif isinstance(asked, str) and not isinstance(trains, str):
        data.note("warning: the rows hold messages, which train with the chat template, and the task asks without it, "
                  f"{wrong}; set task.chat = true")
    elif not isinstance(asked, str) and asked[0]["role"] == "system" and trains[0]["role"] != "system":
        data.note(f"warning: the task puts a system message before its prompts and the rows have none, {wrong}; add it to the "
                  "rows, or leave out task.system")


def check_answers(config: DataConfig, data: DataChecks, limit: int,
                  samples: Callable[[rows.Row, str, int], Sequence[Sample]],
                  look: Callable[[rows.Row, str], object]) -> dict[str, Any]:
    """Check that some of the first rows give samples; those that give none are told. Returns options, as `Stage.check_data`.

    samples: (row, place, number) -> the row's answers; empty where one has more tokens than limit. look: checks a row without a
    tokenizer. Raises UserError.
    """
    loaded = load_rows(config, data.given)
    check_rows(config, loaded, look)
    note_form(config, next(iter(loaded)), data)
    made = [samples(row, f"{config.data}, row {i}", i) for i, row in first_used(config, loaded, _LOOKED_AT)]
    check(any(made) or not made, f"{config.data}: none of the first {len(made)} rows has two answers within {limit} tokens; "
          "raise max_tokens, or choose a model with a longer context")
    if lost := sum(not m for m in made):
        data.note(f"{lost / len(made):.0%} of the first {len(made)} rows have answers that are longer than {limit} tokens and "
                  "are left out")
    return length(config, loaded, data)


class Passes:
    """The rows of a stage's data, batch by batch, and those that are measured on and never train."""

    def __init__(self, loop: Loop) -> None:
        config: DataConfig = loop.config
        data = load_rows(config, loop.run.given)
        measured, theirs = heldout.choose(config, data, loop.run.given.heldout_rows)
        self.measured = {i: row for i, row in measured.items() if not dropped(config, row)}
        self.source = config.data if theirs else config.heldout_data
        withheld, drops = loop.run.withheld, getattr(config, "identical", "error") == "drop"

        def out(row: rows.Row) -> bool:
            return bool(withheld and withheld.holds(row)) or dropped(config, row)

        self._feed = rows.Feed(data, loop.seed, skip=measured if theirs else (), leave_out=out if withheld or drops else None)
        # Whole passes end with a smaller batch; any other number of steps goes round and round.
        whole = 0 if config.stream else len(self._feed) * config.epochs
        self._size, self._last = config.episodes, whole if config.steps == -(-whole // config.episodes) else None

    def shown(self, renderer: Renderer) -> list[Sample]:
        """What the loss is measured on: the answers in the rows that never train."""
        rendered = [r for i, row in self.measured.items() for r in renderer(row, f"{self.source}, row {i}")]
        return [r.sample() for r in rendered if r.trained_tokens]

    def paid(self, step: int) -> Usage:
        """Rows that are there cost nothing."""
        del step
        return Usage()

    def batch(self, step: int) -> list[tuple[int, rows.Row]]:
        """The rows of a step, each with its number in the data."""
        start = step * self._size
        return self._feed.take(start, self._size if self._last is None else min(self._size, self._last - start))


def load_rows(config: DataConfig, given: Given) -> rows.Rows:
    """The rows that a stage imitates: those from Python, or its data."""
    if given.rows is not None:
        return given.rows
    return rows.load(config.data, config.data_split, config.stream, config.columns, config.documents)
