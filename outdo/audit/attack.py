"""What attacks have in common: answers that are wrong, or none at all, sent in the forms that the reward accepts.

An attack FAILs if it is accepted three times in a row, and WARNs if it is paid a tenth of the range more than wrong answers are.
Whoever must know the right answer to use a hole is at most warned about.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from outdo.audit.base import Case, Check, Finding, Knows, Result, Verdict, bound, example, same

if TYPE_CHECKING:
    from outdo.audit.audit import Audit
    from outdo.audit.cases import Template

PAID = 0.1  # of the range: so much more than a wrong answer is worth a warning
_SHRINKS = 40  # calls for making a counterexample smaller


def equal(answer: str, reference: str | None) -> bool:
    """Whether an answer is the right one in another dress: then it is no attack."""
    if reference is None or same(answer, reference):
        return reference is not None
    try:
        return Fraction(answer.strip().replace(",", "")) == Fraction(reference.strip().replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return False


class Attack(Check):
    """Completions that must not be paid."""

    needs_accepted = True
    knows: ClassVar[Knows] = Knows.NOTHING
    rows: ClassVar[int] = 8  # of the data on which it is tried

    @abstractmethod
    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """Whole completions for one row; t is the form of its right answer."""

    def cases(self, audit: Audit) -> list[Case]:
        """All that is tried: never a right answer."""
        rows = audit.some(self.rows, self.id) or [(c, _BARE) for c in audit.right[: self.rows]]
        tried = [c.saying(text) for c, t in rows for text in dict.fromkeys(self.completions(audit, c, t))]
        return [c for c in tried if not equal(c.completion, c.reference)]

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        cases = self.cases(audit)
        return self.judged(audit, cases, audit.score(cases))

    def judged(self, audit: Audit, cases: Sequence[Case], results: Sequence[Result]) -> Finding:
        """The finding on what these were paid."""
        paid = [(r.value, i) for i, r in enumerate(results) if r.value is not None]
        if len(paid) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(paid)} of {len(cases)} attacks got a score", n=len(paid))
        best, at = max(paid)
        share = sum(v >= audit.accept for v, _ in paid) / len(paid)
        case, result = cases[at], results[at]
        if best >= audit.accept and self.confirmed(audit, case):
            case = self.smaller(audit, case)
            (result,) = audit.score([case])
            worst = Verdict.WARN if self.knows == Knows.ANSWER else Verdict.FAIL
            return self.finding(
                worst,
                f"accepted {share:.0%} of {len(paid)} completions without a right answer, for example "
                f"{_short(case.completion)} ({result.value:g}; the right answer is {_short(case.reference or '?')})",
                n=len(paid),
                effect=share,
                knows=str(self.knows),
                grounds="counterexample",
                example=example(case, result),
                signature=signature(case),
            )
        more = (best - audit.low) / audit.span
        if more >= PAID and best > audit.low + 1e-9:
            return self.finding(
                Verdict.WARN,
                f"paid {best:g} (wrong answers {audit.low:g}) for {_short(case.completion)}",
                n=len(paid),
                effect=more,
                knows=str(self.knows),
                grounds="counterexample",
                example=example(case, result),
            )
        return self.finding(Verdict.PASS, f"none of {len(paid)} accepted", n=len(paid), bound=bound(len(paid)))

    def confirmed(self, audit: Audit, case: Case) -> bool:
        """Whether two more tries are accepted as well: a reward that errs at random is no proof."""
        again = audit.host.score([case, case])
        return all(r.value is not None and r.value >= audit.accept for r in again)

    def smaller(self, audit: Audit, case: Case) -> Case:
        """The shortest completion found that is still accepted, by leaving out words. Only attacks that do not know the
        answer."""
        if self.knows not in (Knows.NOTHING, Knows.PROMPT):
            return case
        pieces, calls, size = re.findall(r"\s*\S+|\s+$", case.completion), 0, 0
        size = max(1, len(pieces) // 2)
        while size >= 1 and calls < _SHRINKS and len(pieces) > 1:
            for at in range(0, len(pieces), size):
                left = pieces[:at] + pieces[at + size :]
                text = "".join(left).strip()
                calls += 1
                if text and not equal(text, case.reference) and audit.accepts([case.saying(text)])[0]:
                    pieces = left
                    break
                if calls >= _SHRINKS:
                    break
            else:
                size //= 2
        text = "".join(pieces).strip() or case.completion
        return case.saying(text) if audit.accepts([case.saying(text)])[0] else case


def signature(case: Case) -> dict[str, object]:
    """How a use of this hole can be recognised in other completions: the words that stand in it whatever the row."""
    text = case.completion
    for part in (case.reference or "", case.prompt if isinstance(case.prompt, str) else ""):
        if part and part in text:
            text = text.replace(part, "\x00")
    return {"pieces": [p for p in text.split("\x00") if p.strip()][:4], "empty": not case.completion.strip()}


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:60]}…{shown[-15:]} ({len(text)} characters)"


def _bare() -> Template:
    from outdo.audit.cases import Template

    return Template("", "")


_BARE = _bare()
