"""Rows of data as cases: right answers to learn the form from, and the form itself.

A row needs a prompt and a reference. A completion that is right (`completion`, `response`, `gold`) shows in which form the reward
wants its answers; without one, common forms are tried. Rows marked as wrong (`right`, `correct` or `label`: false, 0, "wrong")
are known-wrong answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outdo.audit.base import Case
from outdo.errors import check
from outdo.text import rows as text_rows
from outdo.text.columns import Adapted

PROMPTS = ("prompt", "question", "query", "problem", "instruction", "input")
COMPLETIONS = ("completion", "response", "gold_completion", "output", "solution_text")
REFERENCES = ("reference", "answer", "ground_truth", "solution", "target", "gold", "expected", "label")
MARKS = ("right", "correct", "is_correct", "label")
HOLE = "\x00"
FORMS = (
    "<answer>\x00</answer>",
    "<think>I work it out.</think>\n<answer>\x00</answer>",
    "\\boxed{\x00}",
    "#### \x00",
    "The answer is \x00.",
    "Answer: \x00",
    "\x00",
    "```python\n\x00\n```",
)


@dataclass(frozen=True)
class Template:
    """A form in which the reward accepts answers: what stands before and after one."""

    before: str
    after: str

    def fill(self, answer: str) -> str:
        """The form with this answer in it."""
        return self.before + answer + self.after


def load(path: str | Path | Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> list[Case]:
    """The cases of a file or of rows. Raises UserError."""
    rows = text_rows.load(str(path) if isinstance(path, Path) else path)
    rows = rows.rows if isinstance(rows, Adapted) else list(rows)  # as they are: a reward is given the columns that the data has
    return [case(dict(row), i, columns or {}) for i, row in enumerate(rows)]


def case(row: dict[str, Any], number: int, columns: Mapping[str, str]) -> Case:
    """One row, its columns found by their usual names. Raises UserError."""
    prompt = _named(row, columns.get("prompt"), PROMPTS)
    check(prompt is not None, f"row {number} has no prompt (columns {', '.join(row)}); name it: --columns prompt=NAME")
    said = _named(row, columns.get("completion"), COMPLETIONS)
    mark = next((row[k] for k in MARKS if k in row and _marks(row[k]) is not None), None)
    reference = columns.get("reference") or _reference(row)
    value = _at(row, reference)
    chat = isinstance(said, list) if said is not None else isinstance(prompt, list)
    text = "" if said is None else said if isinstance(said, str) else str(said[-1].get("content") or "")
    short = _text(value)
    if said is None and short and "####" in short:  # GSM8K: the answer's text ends with the answer
        text, said, short = short, short, short.rpartition("####")[2].strip()
    right = _marks(mark) if mark is not None else None if said is None else True
    kept = {k: v for k, v in row.items() if v is not said or k == reference}
    return Case(prompt, text, kept, short, right, chat, number, reference)


def _reference(row: Mapping[str, Any]) -> str | None:
    graded = row.get("reward_model")
    if isinstance(graded, Mapping) and "ground_truth" in graded:
        return "reward_model.ground_truth"
    return next((k for k in REFERENCES if k in row and (k != "label" or _marks(row[k]) is None)), None)


def _at(row: Mapping[str, Any], column: str | None) -> Any:
    value: Any = row
    for part in (column or "").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _named(row: Mapping[str, Any], chosen: str | None, usual: Sequence[str]) -> Any:
    return row.get(chosen) if chosen else next((row[k] for k in usual if row.get(k) is not None), None)


def _marks(value: Any) -> bool | None:
    words = {"right": True, "correct": True, "true": True, "wrong": False, "incorrect": False, "false": False}
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    return words.get(value.casefold()) if isinstance(value, str) else None


def template(case: Case) -> Template | None:
    """The completion's form: everything around the last place of the reference, the reference nowhere else."""
    if not case.reference:
        return None
    found = list(re.finditer(rf"(?<!\w){re.escape(case.reference)}(?!\w)", case.completion))
    if not found:
        return None
    a, b = found[-1].span()
    before = case.completion[:a]
    for m in reversed(found[:-1]):  # what leads to the answer would give it away
        before = before[: m.start()] + "..." + before[m.end() :]
    return Template(before, case.completion[b:])
