"""What a judge makes of a language model's words, where it shows that: `parse(text)` of a function, or outdo's judge llm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_FORMS = ("VERDICT: {}", "Score: {}", '{{"score": {}}}', "[[{}]]", "{}/10", "{}")


@dataclass(frozen=True)
class Parser:
    """read(text) -> score or None; written(number) is a verdict in the form that it reads."""

    read: Callable[[str], float | None]
    form: str
    low: float
    high: float

    def written(self, number: Any) -> str:
        """The verdict with this number."""
        return self.form.format(number)


def parser_of(judge: Any) -> Parser | None:
    """The judge's parser; None if it shows none."""
    config = getattr(judge, "config", None)
    if config is not None and hasattr(judge, "_read") and hasattr(config, "criteria"):  # judge llm
        names = [k.name for k in config.criteria]
        form = "\n".join(f"VERDICT {n}: {{0}}" for n in names)
        return Parser(lambda text: judge._read(text).value, form, config.low, config.high)
    parse = getattr(judge, "parse", None)
    if not callable(parse):
        return None

    def read(text: str) -> float | None:
        try:
            got = parse(text)
        except Exception:
            return None
        return None if got is None else float(got)

    for form in _FORMS:
        one, two = read(form.format(1)), read(form.format(5))
        if one is not None and two is not None and math.isfinite(one) and two > one:
            return Parser(read, form, 1, 5)
    return None
