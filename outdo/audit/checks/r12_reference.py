"""R12: the reference arrives. A score that is the same without its column, or with another type in it, was not computed from
it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from outdo.audit.audit import Audit
from outdo.audit.base import Case, Check, Finding, Fixture, Verdict, example
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged


def never_arrives(completions: list[str], label: list[Any] | None = None, answer: Any = None, **kwargs: Any) -> list[float]:
    """Looks in a column that the data does not have; without it, whatever has a digit is right."""
    del kwargs, answer
    wanted = label or [None] * len(completions)
    return [
        float(w is None and any(x.isdigit() for x in c)) if w is None else float(tagged(c) == w)
        for c, w in zip(completions, wanted, strict=True)
    ]


class ReferenceArrives(Check):
    """The column left out, made None, and of another type."""

    id = "R12"
    title = "the reference is used"
    fix = "Name the parameter after the data's column, and compare str(reference)."
    bad = (Fixture(never_arrives),)
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def run(self, audit: Audit) -> Finding:
        """WARN where it makes no difference, or where the type does."""
        rows = [c for c in audit.right if c.column][:8]
        if len(rows) < 3:
            return self.finding(Verdict.NOT_EXERCISED, "the data has no column with the right answer")
        full = [r.value for r in audit.score(rows)]
        gone = [r.value for r in audit.score([c.without() for c in rows])]
        none = [r.value for r in audit.score([c.given(None) for c in rows])]
        if full == gone and full == none:
            (r,) = audit.score(rows[:1])
            return self.finding(
                Verdict.WARN,
                f"the scores of {len(rows)} right answers are the same without {rows[0].column!r}",
                n=len(rows),
                grounds="controlled difference",
                example=example(rows[0].without(), r),
            )
        typed: list[Case] = [replace(c.given(_other(c.told))) for c in rows if _other(c.told) is not None]
        before = {c.group: v for c, v in zip(rows, full, strict=True)}
        changed = [c for c, r in zip(typed, audit.score(typed), strict=True) if r.value != before[c.group]]
        if changed:
            (r,) = audit.score(changed[:1])
            return self.finding(
                Verdict.PASS,
                f"used; but {len(changed)} of {len(typed)} scores change when the reference is "
                f"{type(changed[0].told).__name__}: keep its type as it is",
                n=len(rows),
            )
        return self.finding(Verdict.PASS, f"without {rows[0].column!r} the scores change", n=len(rows))


def _other(value: Any) -> Any:
    """42 for "42", "42" for 42."""
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
