"""choice: 1 for the right letter of a multiple-choice question.

Read is the last statement of the form "answer: B", "the answer is (B)", <answer>B</answer> or \\boxed{B}; a completion that is
nothing but the letter counts as well. One that states two different letters in its last line has not answered.
"""

from __future__ import annotations

import re

from pydantic import Field

from outdo.judges.base import Options
from outdo.judges.common.answers import words
from outdo.judges.common.rule import Rule, no_answer
from outdo.types import Score, Trajectory


class Choice(Rule):
    """1 or 0."""

    name = "choice"

    class Config(Options):
        """Options of choice."""

        column: str = "answer"  # the right letter ("B"), or its number from 0 (1)
        letters: str = Field(default="ABCD", min_length=2)

    config: Config

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        letters, gold = self.config.letters, t.info[self.config.column]
        right = letters[gold] if isinstance(gold, int) and 0 <= gold < len(letters) else str(gold).strip().upper()
        if right not in letters:
            return Score(None, f"column {self.config.column} holds {str(gold)[:40]!r}, which is none of {letters}")
        text = words(t).strip()
        said = self._stated(text)
        if len(said) != 1:
            return no_answer("no letter" if not said else f"it states {' and '.join(sorted(said))}")
        (letter,) = said
        return Score(float(letter == right), f"{letter} is {'right' if letter == right else f'not {right}'}")

    def _stated(self, text: str) -> set[str]:
        """The letters in the last line that states one."""
        one = f"[{re.escape(self.config.letters)}]"
        if bare := re.fullmatch(rf"\(?({one})\)?[.:)]?", text):
            return {bare[1]}
        marked = re.compile(rf"(?:(?i:answer(?:\s+is)?)\s*:?\s*\(?|<answer>\s*\(?|\\boxed\{{\s*)({one})(?![A-Za-z])")
        for line in reversed(text.splitlines()):
            if found := marked.findall(line):
                return set(found)
        return set()
