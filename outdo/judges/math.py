"""math: 1 for an answer that is mathematically equal to the data's: 0.5, 1/2 and \\frac{1}{2} are one (library math-verify).

The completion, or what stands in its <answer> tags, is parsed as math-verify does it: \\boxed{...} first, then the last
expression. It runs in a process of its own:
an answer that takes longer than `timeout_s` to compare (2^9^9^9) counts as wrong. A gold answer that cannot be read leaves the
sample without a score.
"""

from __future__ import annotations

import functools
import importlib.util

from pydantic import Field

from outdo.errors import check
from outdo.judges.base import Options
from outdo.judges.common.answers import answer, words
from outdo.judges.common.rule import Rule, no_answer, texts
from outdo.judges.common.worker import TimedOut, Worker
from outdo.types import Score, Trajectory


class Math(Rule):
    """1 or 0."""

    name = "math"

    class Config(Options):
        """Options of math."""

        column: str = "answer"  # a number or an expression, LaTeX or plain; of a list any is right
        timeout_s: float = Field(default=5.0, gt=0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        check(importlib.util.find_spec("math_verify") is not None, "judge math needs math-verify; install it: pip install "
              "'outdo[llm]'")

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        golds, text = texts(t.info[self.config.column]), words(t)
        try:
            found = _worker().ask({"golds": golds, "said": answer(text, "tags") or text}, self.config.timeout_s)
        except TimedOut:
            return Score(0.0, f"comparing took longer than {self.config.timeout_s:g} s")
        if found["gold"] is None:
            return Score(None, f"column {self.config.column} holds {str(golds)[:60]}, which is no number or expression that "
                         "math-verify can read")
        if found["said"] is None:
            return no_answer("no number or expression")
        return Score(float(found["right"]), f"{found['said']} is {'right' if found['right'] else 'not ' + found['gold']}")


@functools.cache
def _worker() -> Worker:
    return Worker("outdo.judges.common.math_worker")
