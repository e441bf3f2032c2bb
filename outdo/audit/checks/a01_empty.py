"""A01: nothing at all, or nothing that can be seen, must not be paid."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, marker_parser


def mutual_substring(answer: str, reference: str) -> float:
    """The empty answer is part of every reference."""
    return float(answer.strip() in reference or reference in answer)


class Empty(Attack):
    """Empty, white and invisible completions."""

    id = "A01"
    title = "empty or invisible completion"
    fix = "Score an empty answer as wrong before anything is compared."
    bad = (Fixture(mutual_substring, "bare"),)
    good = (Fixture(exact_match), Fixture(marker_parser, "sentence"))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit, c
        for nothing in ("", " ", "\n", "\t\n ", "\u200b", "\u00a0", "\ufeff\u2060"):
            yield nothing
            yield t.fill(nothing)
