"""A15: one answer for everything must not earn more than the share of rows that it is right for (exact binomial test)."""

from __future__ import annotations

from collections import Counter

from scipy.stats import binomtest

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, example
from outdo.audit.fixtures import case_blind, exact_match, tagged

_LEVEL = 0.01


def yes_bias(answer: str, reference: str) -> float:
    """In doubt, yes."""
    said = (tagged(answer) or "").casefold()
    return float(said == reference or (said == "yes" and reference != "no way"))


class Constant(Check):
    """The most frequent answers, given on every row."""

    id = "A15"
    title = "one answer for everything"
    fix = "Look at the rows on which that answer is wrong and accepted."
    needs_accepted = True
    bad = (Fixture(yes_bias, "yes_no", {"accept": 0.5}),)
    good = (Fixture(exact_match, "yes_no"), Fixture(exact_match), Fixture(case_blind, "capitals"))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = [(c, t) for c, t in audit.templates if c.reference]
        if len(rows) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(rows)} rows have a form to put an answer into")
        counts = Counter(c.reference for c, _ in rows)
        tried = [a for a, _ in counts.most_common(3)] + ["0", "1", "yes", "no", "A", "True"]
        worst = None
        for answer in dict.fromkeys(t for t in tried if t is not None):
            cases = [c.saying(t.fill(answer)) for c, t in rows]
            taken = audit.accepts(cases)
            share = counts.get(answer, 0) / len(rows)
            excess = sum(taken) / len(rows) - share
            p = binomtest(sum(taken), len(rows), min(max(share, 0.02), 1.0), alternative="greater").pvalue
            if worst is None or excess > worst[0]:
                wrong = next((c for c, ok in zip(cases, taken, strict=True) if ok and c.reference != answer), None)
                worst = (excess, p, answer, sum(taken) / len(rows), share, wrong)
        assert worst is not None
        excess, p, answer, rate, share, case = worst
        if p < _LEVEL and case is not None:
            (result,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"{answer!r} is accepted on {rate:.0%} of the rows and right on {share:.0%}",
                n=len(rows),
                effect=excess,
                knows=str(Knows.NOTHING),
                grounds="counterexample",
                example=example(case, result),
            )
        return self.finding(
            Verdict.PASS,
            f"the best single answer ({answer!r}) is accepted on {rate:.0%} of the rows, right on {share:.0%}",
            n=len(rows),
            effect=excess,
        )
