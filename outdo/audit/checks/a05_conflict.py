"""A05: two answers that exclude each other, in both orders. Together they must not be accepted more than one of two."""

from __future__ import annotations

import re

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.fixtures import exact_match, last_boxed, marker_parser

_ROWS = 8


def any_boxed(answer: str, reference: str) -> float:
    """Any of the boxes is right."""
    return float(reference in re.findall(r"\\boxed\{([^{}]*)\}", answer))


class Conflict(Check):
    """Right and wrong, wrong and right."""

    id = "A05"
    title = "two conflicting answers"
    fix = "Read one answer, always the same one of several (the last), or refuse completions with two."
    needs_accepted = True
    bad = (Fixture(any_boxed, "boxed"),)
    good = (Fixture(last_boxed, "boxed"), Fixture(exact_match), Fixture(marker_parser, "sentence"))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.some(_ROWS, self.id)
        best, most = None, 0.0
        for join in ("\n", " or ", ", "):
            cases = []
            for i, (c, t) in enumerate(rows):
                wrong = next((o.reference for o, _ in rows[i + 1 :] + rows[:i] if o.reference != c.reference), None)
                if wrong is None or c.reference is None:
                    continue
                if join == "\n":
                    pairs = [t.fill(a) + "\n" + t.fill(b) for a, b in ((c.reference, wrong), (wrong, c.reference))]
                else:
                    pairs = [t.fill(a + join + b) for a, b in ((c.reference, wrong), (wrong, c.reference))]
                cases += [c.saying(text) for text in pairs]
            taken = audit.accepts(cases)
            both = [a and b for a, b in zip(taken[::2], taken[1::2], strict=True)]
            if both and sum(both) / len(both) > most:
                most, best = sum(both) / len(both), cases[2 * both.index(True)]
        n = len(rows)
        if n < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{n} rows have a form to put two answers into")
        if best is not None and most >= 0.5:
            (result,) = audit.score([best])
            return self.finding(
                Verdict.FAIL,
                f"{most:.0%} of the rows accept a right and a wrong answer together, in both orders",
                n=n,
                effect=most,
                knows=str(Knows.LIST),
                grounds="counterexample",
                example=example(best, result),
            )
        return self.finding(
            Verdict.PASS, "of two conflicting answers no order and its reverse are both accepted", n=n, bound=bound(n)
        )
