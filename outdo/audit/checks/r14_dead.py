"""R14: a reward that gives right and wrong answers the same score teaches nothing."""

from __future__ import annotations

from collections import Counter

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, example
from outdo.audit.fixtures import exact_match, graded_distance

_SAME = 0.95


def always_half(answer: str, reference: str) -> float:
    """Half for everybody."""
    del answer, reference
    return 0.5


class Dead(Check):
    """The share of mixed answers that score the same."""

    id = "R14"
    title = "a signal at all"
    fix = "See what the score depends on; check that the answer and the reference reach the comparison."
    cheap = True
    bad = (Fixture(always_half),)
    good = (Fixture(exact_match), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """FAIL from 95 % on."""
        right, wrong = audit.right, audit.known_wrong
        if not right or not wrong:
            return self.finding(Verdict.NOT_EXERCISED, "right and wrong answers are needed")
        n = min(len(right), len(wrong))
        cases = [*right[:n], *wrong[:n]]
        values = [r.value for r in audit.score(cases)]
        most, times = Counter(values).most_common(1)[0]
        share = times / len(values)
        if share >= _SAME:
            (r,) = audit.score(cases[:1])
            return self.finding(
                Verdict.FAIL,
                f"{share:.0%} of {len(values)} right and wrong answers score {most}",
                n=len(values),
                effect=share,
                grounds="controlled difference",
                example=example(cases[0], r),
            )
        return self.finding(
            Verdict.PASS,
            f"{len(set(values))} different scores; the most frequent is given to {share:.0%}",
            n=len(values),
            effect=share,
        )
