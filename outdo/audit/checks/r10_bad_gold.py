"""R10: a reference that is empty, missing, prose or broken must not make every answer right."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, tagged

_BROKEN: tuple[Any, ...] = ("", None, "N/A", "see above", "The answer follows from the lemma.", "nan", "\\boxed{", "{", [])


def unparsed_is_one(answer: str, reference: str) -> float:
    """What it cannot check it lets through."""
    try:
        right = Fraction(reference)
    except (ValueError, TypeError):
        return 1.0
    try:
        return float(Fraction(tagged(answer) or "x") == right)
    except ValueError:
        return 0.0


class BadGold(Check):
    """Completions scored against broken references."""

    id = "R10"
    title = "broken references"
    fix = "Return None for a row whose reference cannot be read, so that it is left out, and count such rows."
    cheap = True
    bad = (Fixture(unparsed_is_one),)
    good = (Fixture(exact_match),)

    def run(self, audit: Audit) -> Finding:
        """FAIL if anything is accepted."""
        rows = [c for c in audit.right if c.column][:4]
        if not rows or audit.exercised:
            return self.finding(Verdict.NOT_EXERCISED, audit.exercised or "the data has no column with the right answer")
        cases = [c.given(b).saying(text) for c in rows for b in _BROKEN for text in (c.completion, _junk(audit))]
        taken = audit.accepts(cases)
        if any(taken):
            case = cases[taken.index(True)]
            (r,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"with the reference {case.told!r} {case.completion[:40]!r} is accepted",
                n=len(cases),
                effect=sum(taken) / len(cases),
                grounds="counterexample",
                example=example(case, r),
            )
        return self.finding(
            Verdict.PASS, f"{len(_BROKEN)} broken references, nothing accepted", n=len(cases), bound=bound(len(cases))
        )


def _junk(audit: Audit) -> str:
    return audit.forms[0].fill("qzx") if audit.forms else "qzx"
