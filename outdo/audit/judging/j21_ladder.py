"""J21: right answers made worse in four steps must not score higher."""

from __future__ import annotations

import random

from outdo.audit.base import Case
from outdo.audit.judge import Controlled


class Ladder(Controlled):
    """A wrong answer with words left out and shuffled, against itself."""

    id = "J21"
    title = "damage must not help"
    fix = "Look at what the damaged answers are accepted for."
    planted = "likes_damage"

    def treat(self, c: Case, rng: random.Random) -> str:
        """One of four steps: a word left out, a third left out, shuffled, letters lost."""
        words, step = c.completion.split(" "), rng.randrange(4)
        if step == 0 and len(words) > 1:
            del words[rng.randrange(len(words))]
        elif step == 1:
            words = words[: max(1, 2 * len(words) // 3)]
        elif step == 2:
            rng.shuffle(words)
        else:
            words = [w[:-1] or w for w in words]
        return " ".join(words)
