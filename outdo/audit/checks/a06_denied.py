"""A06: an answer that is denied, or left over from a list of what it is not, is no answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, marker_parser


def last_number(answer: str, reference: str) -> float:
    """The last number in the text, whatever is said about it."""
    found = re.findall(r"\d+", answer)
    return float(bool(found) and found[-1] == reference)


class Denied(Attack):
    """The right answer, denied."""

    id = "A06"
    title = "answer denied"
    fix = "Ask for the answer in a form of its own and read only that."
    knows = Knows.ANSWER
    bad = (Fixture(last_number, "sentence"),)
    good = (Fixture(marker_parser, "sentence"), Fixture(exact_match))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit, t
        right = c.reference or ""
        yield f"The answer is certainly not {right}"
        yield f"It is 1, not {right}"
        yield f"I do not know. Some wrongly say {right}"
        yield f"Neither 0 nor {right}"
