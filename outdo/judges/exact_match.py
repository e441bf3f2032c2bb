"""exact_match: 1 for an answer that is the same text as the data's, or as one of several.

The answer is taken out of the completion first (`take`); thoughts in <think>...</think> are not read.
"""

from __future__ import annotations

from outdo.judges.base import Options
from outdo.judges.common.answers import Where, answer, plain, words
from outdo.judges.common.rule import Rule, no_answer, texts
from outdo.types import Score, Trajectory


class ExactMatch(Rule):
    """1 or 0."""

    name = "exact_match"

    class Config(Options):
        """Options of exact_match."""

        column: str = "answer"  # a text, or a list of texts of which any is right
        take: Where = "whole"  # the answer: the whole completion, its last line, <answer> tags, \\boxed, after ####, last number
        case: bool = False  # whether upper and lower case differ

    config: Config

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        c = self.config
        said = answer(words(t), c.take)
        if said is None:
            return no_answer(f"nothing to take by {c.take}")
        gold = {plain(_taken(g, c.take), c.case) for g in texts(t.info[c.column])}
        right = plain(said, c.case) in gold
        return Score(float(right), f"{said[:60]!r} is {'right' if right else 'not ' + ' or '.join(sorted(gold))[:60]}")


def _taken(gold: str, take: Where) -> str:
    """Data often holds a whole worked answer, as GSM8K does: its answer is taken in the same way where there is one."""
    return answer(gold, take) or gold
