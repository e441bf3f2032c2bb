"""The four business rules where the right answers are known. Needs: the player gold."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.deciding import GOLD
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, gets, make, points, rate, size
from outdo.evaluation.stats import paired_difference

PLACE = 150  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """The business rules where the right answers are known."""
    if e.teacher != GOLD or not e.rl or not e.more_imitation:
        return
    ours, theirs = e.final(e.more_imitation, "greedy"), e.final(e.rl, "greedy")
    if ours is None or theirs is None:
        return
    d = paired_difference(ours, theirs)
    yield make("rule_known_best", "Best behaviour known, training must be cheap: SFT wins",
               {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict),
               f"This is the rule that the task falls under: the right answers are known. At equal FLOPs {e.more_imitation}, "
               f"which imitates them, {gets(e, rate(e, ours))}, {e.rl} {rate(e, theirs)} (greedy): {points(e, d)} "
               f"({size(e, d)}).",
               difference=diff(d))
    yield make("rule_unknown_best", "Best behaviour unknown, but it can be judged: RL wins", "not measurable here",
               "Does not apply: the right answers are known.")
    yield make("rule_preferences", "No rule can be written, people can only prefer: RLHF", "not measurable here",
               "Does not apply: a program says which answers are right; no preferences were collected.")
    yield make("rule_dense", "Dense feedback exists: SFT may be enough", "not measurable here",
               "Not tested apart: right answers tell every token, which is the first rule; feedback on the steps of wrong ones "
               "was not used.")
