"""Which shape of TRL's dataset formats a row has, told by its columns (trl: docs/source/dataset_formats.md)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from outdo.errors import UserError, check
from outdo.text.columns import ROLES


class Shape(StrEnum):
    """What a row is meant for."""

    STEPWISE = "stepwise"
    PREFERENCE = "preference"
    IMPLICIT_PREFERENCE = "implicit-prompt preference"
    UNPAIRED_PREFERENCE = "unpaired preference"
    PROMPT_COMPLETION = "prompt-completion"
    MESSAGES = "language modelling (messages)"
    TEXT = "language modelling (text)"
    PROMPT_ONLY = "prompt-only"


# Richer shapes first: a row may carry columns of a poorer one, and any others, beside its own.
COLUMNS: dict[Shape, tuple[str, ...]] = {
    Shape.STEPWISE: ("prompt", "completions", "labels"),
    Shape.PREFERENCE: ("prompt", "chosen", "rejected"),
    Shape.IMPLICIT_PREFERENCE: ("chosen", "rejected"),
    Shape.UNPAIRED_PREFERENCE: ("prompt", "completion", "label"),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.MESSAGES: ("messages",),
    Shape.TEXT: ("text",),
    Shape.PROMPT_ONLY: ("prompt",),
}
_CONTENT = ("prompt", "completion", "chosen", "rejected")  # each is text or a list of messages, all of a row the same


def shape_of(row: Any, place: str = "the row") -> Shape:
    """The shape of a row, its columns checked. place: which row, for messages. Raises UserError."""
    check(isinstance(row, Mapping), f"{place} is a {type(row).__name__}; a dict of columns is wanted")
    shape = next((s for s, columns in COLUMNS.items() if all(c in row for c in columns)), None)
    if shape is None:
        wanted = "; ".join("+".join(columns) for columns in COLUMNS.values())
        found = ", ".join(map(str, row)) or "(none)"
        raise UserError(f"{place} has the columns {found}; wanted are those of one shape: {wanted}; question+answer; "
                        "instruction+output; conversations; name yours: columns = { ours = \"theirs\" }, --columns OURS=THEIRS")
    _check_columns(row, shape, place)
    return shape


def _check_columns(row: Mapping[str, Any], shape: Shape, place: str) -> None:
    columns = COLUMNS[shape]
    contents = [c for c in columns if c in _CONTENT]
    if shape is Shape.STEPWISE:
        _check(isinstance(row["prompt"], str), row, "prompt", "text", place)
        _check(_is_list(row["completions"], str), row, "completions", "a list of texts", place)
        _check(_is_list(row["labels"], bool) and len(row["labels"]) == len(row["completions"]), row, "labels",
               "a list with true or false for each completion", place)
        return
    for column in contents:
        _check(isinstance(row[column], str) or is_messages(row[column]), row, column,
               "text or a list of messages with role and content", place)
        check_roles(row[column], place)
    kinds = {type(row[c]) is str for c in contents}
    check(len(kinds) < 2, f"{place}: some of {', '.join(contents)} are text and some are messages; make all the same")
    if shape is Shape.TEXT:
        _check(isinstance(row["text"], str), row, "text", "text", place)
    if shape is Shape.MESSAGES:
        _check(is_messages(row["messages"]), row, "messages", "a list of messages with role and content", place)
        check_roles(row["messages"], place)
    if shape is Shape.UNPAIRED_PREFERENCE:
        _check(row["label"] in (True, False), row, "label", "true or false", place)


def same_answers(row: Mapping[str, Any]) -> bool:
    """Whether a row prefers an answer to itself."""
    return "chosen" in row and "rejected" in row and bool(row["chosen"] == row["rejected"])


def check_roles(value: Any, place: str) -> None:
    """Raise UserError for messages whose roles are called as in ShareGPT's data: nothing in them would train."""
    roles = [m.get("role") for m in value if isinstance(m, Mapping)] if isinstance(value, list) else []
    wrong = next((r for r in roles if ROLES.get(str(r)) in ("user", "assistant")), None)
    check(wrong is None, f"{place}: a message has the role {wrong!r}; wanted are system, user, assistant and tool: rename it to "
          f"{ROLES.get(str(wrong))}, or give the messages as a column conversations with from and value")


def _check(good: bool, row: Mapping[str, Any], column: str, wanted: str, place: str) -> None:
    shown = repr(row[column])
    check(good, f"{place}: column {column} holds {shown if len(shown) < 60 else shown[:57] + '...'}; wanted is {wanted}")


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and all(isinstance(v, of) for v in value)


def is_messages(value: Any) -> bool:
    """A list of at least one {"role": ..., "content": ...}; a message that only calls tools needs no content."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and ("content" in m or "tool_calls" in m) for m in value)
