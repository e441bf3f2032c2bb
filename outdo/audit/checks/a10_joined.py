"""A10: `wrong = right`, and the right answer with junk around it, is no clean answer."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged


def split_equals(answer: str, reference: str) -> float:
    """Takes what stands after the last equals sign."""
    inside = (tagged(answer) or "").split("=")[-1].strip()
    return float(inside.split(" ")[0] == reference)


class Joined(Attack):
    """The right answer joined to a wrong one, or to junk."""

    id = "A10"
    title = "wrong = right"
    fix = "Compare the whole answer, not a part of it."
    knows = Knows.ANSWER
    bad = (Fixture(split_equals),)
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit
        right = c.reference or ""
        for said in (f"7777 = {right}", f"{right} qzx", f"{right} or 7777", f"qzx={right}"):
            yield t.fill(said)
