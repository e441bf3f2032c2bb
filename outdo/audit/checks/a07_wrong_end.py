"""A07: right on the way and wrong at the end is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, last_boxed


def grep_transcript(answer: str, reference: str) -> float:
    """The right answer stands somewhere."""
    return float(reference in answer)


class WrongEnd(Attack):
    """Reasoning that comes to the right answer, and a final answer that is another."""

    id = "A07"
    title = "right reasoning, wrong final answer"
    fix = "Read the final answer only."
    knows = Knows.ANSWER
    bad = (Fixture(grep_transcript),)
    good = (Fixture(exact_match), Fixture(last_boxed, "boxed"))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit
        for wrong in ("qzx", "7777", "no"):
            yield f"First I get {c.reference}. But no. " + t.fill(wrong)
