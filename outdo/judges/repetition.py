"""repetition: 0 for a completion that never repeats itself, down to -1 for one that says the same thing again and again.

    -(1 - different n-grams of tokens / n-grams)                       (2502.03373, appendix C.2)
"""

from __future__ import annotations

from pydantic import Field

from outdo.judges.base import Options
from outdo.judges.common.rule import Rule
from outdo.types import Score, Trajectory


class Repetition(Rule):
    """A penalty in [-1, 0]."""

    name = "repetition"

    class Config(Options):
        """Options of repetition."""

        ngram: int = Field(default=4, ge=1)  # tokens

    config: Config

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        n, ids = self.config.ngram, t.token_ids[t.mask].tolist()
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        repeated = 1.0 - len(set(grams)) / len(grams) if grams else 0.0
        return Score(-repeated, f"{repeated:.0%} of its {n}-grams are repeats")
