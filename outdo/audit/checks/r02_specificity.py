"""R02: wrong answers are refused: other rows' right answers, and those that the data marks as wrong."""

from __future__ import annotations

from collections import Counter

from scipy.stats import binomtest

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match

_LEVEL = 0.01


def ignores_reference(answer: str, reference: str) -> float:
    """Any number in tags is right."""
    del reference
    return float("<answer>" in answer and any(c.isdigit() for c in answer))


class Specificity(Check):
    """The share of wrong answers that the reward accepts."""

    id = "R02"
    title = "wrong answers refused"
    fix = "Compare with the reference; see why the counterexample equals it."
    cheap = True
    bad = (Fixture(ignores_reference, "sums", {"accept": 0.5}),)
    good = (Fixture(exact_match), Fixture(exact_match, "yes_no"), Fixture(exact_match, "marked"))

    def run(self, audit: Audit) -> Finding:
        """FAIL if more are accepted than the most frequent answer would explain."""
        wrong = audit.known_wrong
        if len(wrong) < 3:
            return self.finding(
                Verdict.NOT_EXERCISED, "no wrong answers: the data has no two different references, and no marked ones"
            )
        taken = audit.accepts(wrong)
        n, hits = len(wrong), sum(taken)
        if audit.gold and audit.low > max(audit.gold):
            return self.finding(Verdict.NOT_EXERCISED, "wrong answers score above right ones; see R11")
        counts = Counter(c.reference for c in audit.right)
        chance = (
            0.0
            if any(ok and c in audit.wrong for c, ok in zip(wrong, taken, strict=True))
            else (max(counts.values(), default=0) / max(1, len(audit.right)) if len(counts) < len(audit.right) / 2 else 0.0)
        )
        if hits and (chance == 0.0 or binomtest(hits, n, chance, alternative="greater").pvalue < _LEVEL):
            case = wrong[taken.index(True)]
            (result,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"{hits} of {n} known-wrong answers are accepted",
                n=n,
                effect=hits / n,
                grounds="counterexample",
                example=example(case, result),
            )
        return self.finding(
            Verdict.PASS, f"{hits} of {n} known-wrong answers are accepted", n=n, bound=bound(n) if not hits else None
        )
