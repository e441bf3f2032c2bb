"""regex: 1 for a completion that a regular expression matches, from the first to the last character unless search = true.

It runs in a process of its own. A pattern that takes longer than `timeout_s` on a completion (nested repetitions can take for
ever) has no score on it.
"""

from __future__ import annotations

import functools
import re

from pydantic import Field

from outdo.errors import UserError, check
from outdo.judges.base import Options
from outdo.judges.common.answers import words
from outdo.judges.common.rule import Rule
from outdo.judges.common.worker import TimedOut, Worker
from outdo.types import Score, Trajectory


class Regex(Rule):
    """1 or 0."""

    name = "regex"

    class Config(Options):
        """Options of regex."""

        pattern: str = ""
        search: bool = False  # anywhere in the completion
        thoughts: bool = True  # read <think>...</think> as well
        timeout_s: float = Field(default=1.0, gt=0)

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        check(bool(self.config.pattern), "judge regex has no pattern; set pattern = '...'")
        try:
            re.compile(self.config.pattern, re.DOTALL)
        except re.error as e:
            raise UserError(f"judge regex: pattern = {self.config.pattern!r} is no regular expression ({e})") from None

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        c = self.config
        try:
            found = _worker().ask({"pattern": c.pattern, "text": words(t, c.thoughts), "search": c.search}, c.timeout_s)
        except TimedOut:
            return Score(None, f"the pattern took longer than {c.timeout_s:g} s; write it without nested repetitions")
        return Score(float(found), "matches" if found else "does not match", answered=found)


@functools.cache
def _worker() -> Worker:
    return Worker("outdo.judges.common.regex_worker")
