"""A08: a part of the right answer, or more than it, is another answer: 4 and 142 are not 42."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack, equal
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged


def digit_substring(answer: str, reference: str) -> float:
    """One contains the other."""
    said = tagged(answer) or ""
    return float(bool(said) and (said in reference or reference in said))


class Digits(Attack):
    """The right answer cut short and made longer."""

    id = "A08"
    title = "part of the answer, or more than it"
    fix = "Compare whole numbers and words, not parts of text."
    knows = Knows.NEAR
    bad = (Fixture(digit_substring), Fixture(digit_substring, "capitals"))
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit
        right = c.reference or ""
        for said in (right[:-1], right[1:], f"1{right}", f"{right}1", right[:1], f"{right}{right}", f"x{right}x"):
            if said and not equal(said, c.reference):
                yield t.fill(said)
