"""The words of a completion, and the answer that stands in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from outdo.types import Trajectory

Where = Literal["whole", "last_line", "tags", "boxed", "hashes", "number"]
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"(?a:-?\d[\d,]*(?:\.\d+)?)")


def words(t: Trajectory, thoughts: bool = False) -> str:
    """What the policy wrote: all its messages' text. thoughts: with `<think>...</think>`; one that never ends hides the rest."""
    said = t.info.get("completion") or ""
    text = said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said if m.get("role") == "assistant")
    return text if thoughts else _THOUGHT.sub("", text).partition("<think>")[0]


def answer(text: str, where: Where) -> str | None:
    """The answer in the form that the judge reads; None if there is none. The last one counts where several stand.

    "tags": <answer>...</answer>; "boxed": \\boxed{...}; "hashes": what follows ####, as in GSM8K; "number": the last number.
    """
    return _READ[where](text)


def plain(text: str, case: bool = False) -> str:
    """Without spaces around, runs of them as one, and without upper case unless it counts."""
    out = " ".join(text.split())
    return out if case else out.casefold()


def _last_line(text: str) -> str | None:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else None


def _tags(text: str) -> str | None:
    found = _TAGS.findall(text)
    return found[-1].strip() if found else None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None


def _hashes(text: str) -> str | None:
    _, sign, after = text.rpartition("####")
    lines = after.strip().splitlines()
    return lines[0].strip() if sign and lines else None


def _number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


_READ: dict[str, Callable[[str], str | None]] = {
    "whole": lambda text: text.strip() or None, "last_line": _last_line, "tags": _tags, "boxed": _boxed, "hashes": _hashes,
    "number": _number,
}  # fmt: skip
