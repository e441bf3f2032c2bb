"""length: 0 for a completion of acceptable length, falling to -1 for one that is too long or too short.

    more than max_tokens - cache_tokens: -(n - (max_tokens - cache_tokens)) / cache_tokens, at least -1
    fewer than min_words:                -(min_words - words) / min_words

The first is DAPO's soft overlong punishment (2503.14476, eq. 13).

Put it beside a judge of answers with `sum`: alone it is satisfied by anything short.
"""

from __future__ import annotations

from pydantic import Field

from outdo.judges.base import Options
from outdo.judges.common.answers import words
from outdo.judges.common.rule import Rule
from outdo.types import Score, Trajectory


class Length(Rule):
    """A penalty in [-1, 0]."""

    name = "length"

    class Config(Options):
        """Options of length."""

        max_tokens: int | None = Field(default=None, ge=1)  # None: no upper limit
        cache_tokens: int = Field(default=0, ge=0)  # over so many tokens before max_tokens the penalty rises; 0: all at once
        min_words: int = Field(default=0, ge=0)

    config: Config

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        c, tokens = self.config, t.sampled_tokens
        long = 0.0
        if c.max_tokens is not None and (over := tokens - (c.max_tokens - c.cache_tokens)) > 0:
            long = min(1.0, over / c.cache_tokens) if c.cache_tokens else 1.0
        n = len(words(t).split())
        short = max(0, c.min_words - n) / c.min_words if c.min_words else 0.0
        return Score(-max(long, short), f"{tokens} tokens, {n} words")
