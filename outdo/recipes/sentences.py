"""The judge of sentences.toml: four checks of "one short sentence about TOPIC that uses the word WORD". Copy it and change it."""

from __future__ import annotations

import re
from typing import Any


def checks(completion: list[dict[str, str]], word: str) -> tuple[bool, bool, bool, bool]:
    """The word stands in it; 5 to 12 words; one sentence with its full stop; at most one word twice."""
    text = completion[0]["content"].strip()
    words = [w.lower() for w in re.findall(r"[A-Za-z']+", text)]
    one = text[-1:] in ".!?" and sum(text.count(mark) for mark in ".!?") == 1 and "\n" not in text
    return word.lower() in words, 5 <= len(words) <= 12, one, len(words) > 0 and len(set(words)) >= len(words) - 1


def all_of(completions: list[Any], word: list[str], **columns: Any) -> list[float]:
    """1 where all four checks hold."""
    return [float(all(checks(c, w))) for c, w in zip(completions, word, strict=True)]


def share(completions: list[Any], word: list[str], **columns: Any) -> list[float]:
    """The share of the checks that hold: something to climb on while none of the samples is right."""
    return [sum(checks(c, w)) / 4 for c, w in zip(completions, word, strict=True)]
