"""A16: which of several answers is read? Where a first, a last and a tagged answer differ, the reward must take the final one."""

from __future__ import annotations

import re

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.fixtures import exact_match, last_boxed

_ROWS = 8


def first_tag(answer: str, reference: str) -> float:
    """The first pair of tags counts, whatever is said afterwards."""
    found = re.search(r"<answer>(.*?)</answer>", answer)
    return float(found is not None and found[1].strip() == reference)


class ParserDifferential(Check):
    """An answer that is taken back: the right one first, another one last."""

    id = "A16"
    title = "an answer taken back still counts"
    fix = "Read the last answer, or refuse completions that give two."
    needs_accepted = True
    bad = (Fixture(first_tag),)
    good = (Fixture(exact_match), Fixture(last_boxed, "boxed"))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.some(_ROWS, self.id)
        if len(rows) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(rows)} rows have a form to put two answers into")
        first = [c.saying(t.fill(c.reference or "") + "\nNo, I was wrong. " + t.fill("qzx")) for c, t in rows]
        last = [c.saying(t.fill("qzx") + "\nNo, I was wrong. " + t.fill(c.reference or "")) for c, t in rows]
        a, b = audit.accepts(first), audit.accepts(last)
        reads = f"right then wrong is accepted {sum(a)} of {len(rows)} times, wrong then right {sum(b)}"
        if sum(a) > len(rows) / 2:
            case = first[a.index(True)]
            (result,) = audit.score([case])
            return self.finding(
                Verdict.WARN,
                f"{reads}: an answer that is taken back counts",
                n=len(rows),
                effect=sum(a) / len(rows),
                knows=str(Knows.ANSWER),
                grounds="counterexample",
                example=example(case, result),
            )
        return self.finding(Verdict.PASS, reads, n=len(rows), bound=bound(len(rows)))
