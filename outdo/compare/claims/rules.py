"""The four business rules where the teacher can be outdone. Needs: a teacher that is not the right answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.deciding import GOLD
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, make, percent
from outdo.evaluation.stats import paired_difference

PLACE = 140  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """The four business rules, and what this run says of each, where the teacher can be outdone."""
    teacher = e.player(e.teacher) if e.teacher and e.teacher != GOLD else None
    score = e.final(e.rl, "greedy") if e.rl else None
    imitation = e.final(e.more_imitation or e.trunk or "", "greedy") if e.trunk else None
    if teacher is None or score is None or imitation is None:
        return
    t, s, i = (float(np.nanmean(x)) for x in (teacher, score, imitation))
    yield make("rule_known_best", "Best behaviour known, training must be cheap: SFT wins", "not measurable here",
               f"Does not apply: the demonstrations here are not the best behaviour (the teacher wins {percent(t)}), so "
               f"imitation copies what is wrong with them, too ({percent(i)}).", teacher=t, imitation=i)
    d = paired_difference(score, np.maximum(np.nanmean(imitation), np.nanmean(teacher)) * np.ones_like(score))
    yield make("rule_unknown_best", "Best behaviour unknown, but it can be judged: RL wins",
               {"higher": "supported", "lower": "contradicted"}.get(d.verdict, d.verdict),
               f"This is the rule that the task falls under: a game's result can be judged without knowing how to win. {e.rl} "
               f"wins {percent(s)} where imitation wins {percent(i)} and the teacher {percent(t)}.",
               reinforcement=s, imitation=i, teacher=t)
    yield make("rule_preferences", "No rule can be written, people can only prefer: RLHF", "not measurable here",
               "Does not apply: the rules of the game give the reward exactly; no preferences were collected.")
    yield make("rule_dense", "Dense feedback exists: SFT may be enough", "not measurable here",
               "Not tested: the only feedback used here is the result at the end of a game. (Exact tables would give dense "
               "feedback on every move; the recipe keeps them for measuring.)")
