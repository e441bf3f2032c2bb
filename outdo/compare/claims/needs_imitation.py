"""RL without imitation ends below RL after it. Needs: both."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.deciding import compare
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict

PLACE = 100  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """What is left when nothing ever wins?"""
    for name in e.rl_without_imitation if e.rl else ():
        yield from compare(e, f"needs_imitation_{name}", f"Reinforcement needs imitation first: {name} ends below {e.rl}",
                           e.rl or name, name, e.final(name, "greedy"))
