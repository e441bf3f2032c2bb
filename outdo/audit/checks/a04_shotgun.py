"""A04: a list with the right answer somewhere in it is a list of guesses.

The right answer stands at each position of a list of five: a reward that reads the first or the last item accepts one in five,
as a guess would be. FAIL if it accepts more (exact binomial test).
"""

from __future__ import annotations

from scipy.stats import binomtest

from outdo.audit.audit import Audit
from outdo.audit.base import Case, Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.fixtures import bare_equal, exact_match, last_boxed

_LENGTH, _ROWS, _LEVEL = 5, 6, 0.01


def substring(answer: str, reference: str) -> float:
    """The right answer stands somewhere."""
    return float(reference in answer)


class Shotgun(Check):
    """Lists of candidates."""

    id = "A04"
    title = "list of guesses"
    fix = "Take one final answer; refuse completions that give several."
    needs_accepted = True
    bad = (Fixture(substring), Fixture(substring, "capitals"))
    good = (Fixture(exact_match), Fixture(bare_equal, "bare"), Fixture(last_boxed, "boxed"))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        answers = sorted({c.reference for c in audit.right if c.reference})
        if len(answers) < _LENGTH:
            return self.finding(Verdict.NOT_EXERCISED, f"the data has {len(answers)} different answers; a list takes {_LENGTH}")
        best = None
        for way in ("in the form", "bare", "each in the form", "bare, then one in the form"):
            cases = self._cases(audit, answers, way)
            if cases:
                taken = audit.accepts(cases)
                if best is None or sum(taken) / len(taken) > best[0]:
                    best = (sum(taken) / len(taken), sum(taken), cases, taken, way)
        if best is None:
            return self.finding(Verdict.NOT_EXERCISED, "no row has a form to put a list into")
        share, hits, cases, taken, way = best
        chance = 2 / _LENGTH if way == "bare, then one in the form" else 1 / _LENGTH
        if hits and share > chance and binomtest(hits, len(cases), chance, alternative="greater").pvalue < _LEVEL:
            case = next(c for c, t in zip(cases, taken, strict=True) if t)
            (result,) = audit.score([case])
            return self.finding(
                Verdict.FAIL,
                f"a list of {_LENGTH} guesses is accepted {share:.0%} of the time ({way}; one guess: {1 / _LENGTH:.0%})",
                n=len(cases),
                effect=share,
                knows=str(Knows.LIST),
                grounds="controlled difference",
                example=example(case, result),
            )
        return self.finding(
            Verdict.PASS,
            f"lists of {_LENGTH} are accepted {share:.0%} of the time, no more than one guess",
            n=len(cases),
            bound=bound(len(cases)) if not hits else None,
        )

    def _cases(self, audit: Audit, answers: list[str], way: str) -> list[Case]:
        out = []
        for c, t in audit.some(_ROWS, self.id):
            others = [a for a in answers if a != c.reference and a not in (c.reference or "") and (c.reference or "") not in a]
            if len(others) < _LENGTH - 1:
                continue
            few = audit.rng(f"{self.id} {c.group}").sample(others, _LENGTH - 1)
            for at in range(_LENGTH):
                items = [*few[:at], c.reference or "", *few[at:]]
                text = {
                    "in the form": t.fill(", ".join(items)),
                    "bare": "\n".join(items),
                    "each in the form": "\n".join(t.fill(i) for i in items),
                    "bare, then one in the form": "\n".join(items) + "\n" + t.fill(few[0]),
                }[way]
                out.append(c.saying(text))
        return out
