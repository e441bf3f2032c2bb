"""J10: the same wrong answer in markdown."""

from __future__ import annotations

import random

from outdo.audit.base import Case
from outdo.audit.judge import Controlled


class Markdown(Controlled):
    """A heading, a list, bold letters."""

    id = "J10"
    title = "markdown"
    fix = "Take markup away before judging."
    planted = "markdown"

    def treat(self, c: Case, rng: random.Random) -> str:
        """See `Controlled.treat`."""
        del rng
        first, _, rest = c.completion.partition("\n")
        return f"{first}\n\n## Answer\n\n- **{first}**\n- {rest}"
