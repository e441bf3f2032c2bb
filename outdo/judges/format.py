"""format: 1 for a completion that consists of given tags in their order, each once, with something in each and nothing between.

Default: <think>...</think> and then <answer>...</answer>.
"""

from __future__ import annotations

from pydantic import Field

from outdo.judges.base import Options
from outdo.judges.common.answers import words
from outdo.judges.common.rule import Rule
from outdo.types import Score, Trajectory


class Format(Rule):
    """1 or 0."""

    name = "format"

    class Config(Options):
        """Options of format."""

        tags: tuple[str, ...] = Field(default=("think", "answer"), min_length=1)
        text_after: bool = False  # whether text may stand between the tags and behind the last

    config: Config

    def rate(self, t: Trajectory) -> Score:
        """See `Rule.rate`."""
        why = self._fault(words(t, thoughts=True))
        return Score(float(not why), why or "as asked for", answered=not why)

    def _fault(self, text: str) -> str:
        """What is wrong with the form; empty if nothing is. Scans, so that no text takes long."""
        at = 0
        for tag in self.config.tags:
            opening, closing = f"<{tag}>", f"</{tag}>"
            if text.count(opening) != 1 or text.count(closing) != 1:
                return f"<{tag}> does not stand there exactly once"
            begin, end = text.find(opening), text.find(closing)
            if not at <= begin < end:
                return f"<{tag}> stands in the wrong place"
            if not self.config.text_after and text[at:begin].strip():
                return f"text before <{tag}>"
            if not text[begin + len(opening) : end].strip():
                return f"<{tag}> is empty"
            at = end + len(closing)
        return "" if self.config.text_after or not text[at:].strip() else "text behind the last tag"
