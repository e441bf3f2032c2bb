"""Reinforcement beats the teacher that imitation learned from. Needs: an RL stage on the gold reward and a reference player."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.deciding import GOLD, compare
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict

PLACE = 10  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    if e.rl and e.teacher and e.teacher != GOLD:
        yield from compare(e, "beats_teacher", "Reinforcement beats the teacher that imitation learned from",
                           e.rl, e.teacher, e.player(e.teacher), b_name="its teacher")
