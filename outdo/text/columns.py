"""Columns as people have them -> the shapes of TRL: named columns, and the usual shapes of instruction and chat data.

| found | becomes |
|---|---|
| `question`, `answer` (GSM8K) | a user's message and the assistant's answer |
| `instruction`, `input` (may be empty), `output` (Alpaca) | the same, instruction and input in one message |
| `question`, `chosen`, `rejected`, all text | a user's message and two answers of the assistant |
| `conversations` with `from` and `value` (ShareGPT) | `messages` |

All other columns stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from outdo.errors import check, nearest

Row = Mapping[str, Any]
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "observation": "tool",
          "function_response": "tool"}  # the others are called as here
_SHAPED = ("text", "messages", "prompt", "chosen")  # columns of TRL's own shapes
_COMPARED = ("question", "chosen", "rejected")
TARGETS = ("prompt", "completion", "messages", "text", "chosen", "rejected", "label", "question", "answer", "completions",
           "labels")  # fmt: skip


def renamed(row: Row, columns: Mapping[str, str], place: str = "the row") -> Row:
    """The row with the columns that `columns` names (ours = theirs) under our names as well. Raises UserError.

    Columns keep their own names beside, for reward functions, unless these mean something to outdo.
    """
    for theirs in columns.values():
        check(theirs in row, f"{place} has no column {theirs!r}{nearest(theirs, [str(k) for k in row])}")
    kept = {k: v for k, v in row.items() if k not in columns and not (k in columns.values() and k in TARGETS)}
    return {**{ours: row[theirs] for ours, theirs in columns.items()}, **kept}


def check_targets(columns: Mapping[str, str], key: str = "columns") -> None:
    """Raise UserError for a name that means nothing to outdo."""
    for ours in columns:
        check(ours in TARGETS, f"{key}: {ours!r} is no column that outdo reads{nearest(ours, TARGETS)}; write ours = theirs, for "
              'example { prompt = "question", completion = "category" }')


def detected(row: Row) -> tuple[Row, str]:
    """The row in one of TRL's shapes, and which common shape it had; unchanged, and "", if it has none of these."""
    if "prompt" not in row and all(isinstance(row.get(c), str) for c in _COMPARED):
        answers = {c: [_said("assistant", row[c])] for c in _COMPARED[1:]}
        return {"prompt": [_said("user", row["question"])], **row, **answers}, "question, chosen and rejected"
    if any(c in row for c in _SHAPED):
        return row, ""
    if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        return _asked(row, row["question"], row["answer"]), "question and answer"
    if isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str):
        more = row.get("input")
        asked = f"{row['instruction']}\n\n{more}" if isinstance(more, str) and more.strip() else row["instruction"]
        return _asked(row, asked, row["output"]), "instruction, input and output"
    if _is_sharegpt(row.get("conversations")):
        messages = [{"role": ROLES.get(str(m["from"]), str(m["from"])), "content": m["value"]} for m in row["conversations"]]
        return {**{k: v for k, v in row.items() if k != "conversations"}, "messages": messages}, "conversations of from and value"
    if isinstance(row.get("conversations"), list):
        return {**{k: v for k, v in row.items() if k != "conversations"}, "messages": row["conversations"]}, "conversations"
    return row, ""


def adapt(row: Row, columns: Mapping[str, str], place: str = "the row") -> Row:
    """Named columns first, then the common shapes. Raises UserError."""
    return detected(renamed(row, columns, place) if columns else row)[0]


class Adapted(Sequence[Row]):
    """A sequence of rows, each adapted when it is read."""

    def __init__(self, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
        self.rows, self.columns = rows, columns

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | Sequence[Row]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        row = self.rows[i]
        return adapt(row, self.columns, f"row {i}") if isinstance(row, Mapping) else row

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))


def _asked(row: Row, question: str, answer: str) -> Row:
    return {"prompt": [_said("user", question)], "completion": [_said("assistant", answer)], **row}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _is_sharegpt(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "from" in m and "value" in m for m in value)
