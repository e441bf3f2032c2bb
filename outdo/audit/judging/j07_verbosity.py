"""J07: the same wrong answer, longer."""

from __future__ import annotations

import random

from outdo.audit.base import Case
from outdo.audit.judge import Controlled

WORDS = (
    "Let me explain this in more detail. ",
    "There are several things to consider here. ",
    "It helps to go through this slowly. ",
    "This follows from what was said before. ",
    "One should keep the question in mind. ",
)


class Verbosity(Controlled):
    """Sentences that say nothing, after the answer."""

    id = "J07"
    title = "verbosity"
    fix = "Tell the judge that length does not count, or subtract what length explains (J24)."
    planted = "length"

    def treat(self, c: Case, rng: random.Random) -> str:
        """See `Controlled.treat`."""
        return f"{c.completion}\n{''.join(rng.choice(WORDS) for _ in range(12))}"
