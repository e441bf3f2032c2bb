"""R05: the same completion gets the same score. Five tries; a reward that differs at rate r is seen with chance 1 - r^5 - (1 -
r)^5."""

from __future__ import annotations

import os

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, tagged

_TRIES, _ROWS = 5, 12


def random_tiebreak(answer: str, reference: str) -> float:
    """Near misses are right half of the time."""
    said = tagged(answer) or ""
    return 1.0 if said == reference else float(os.urandom(1)[0] % 2) * 0.3


class Determinism(Check):
    """Five scores of the same completion."""

    id = "R05"
    title = "same completion, same score"
    fix = "Take chance out of the reward, or declare it as stochastic."
    cheap = True
    bad = (Fixture(random_tiebreak),)
    good = (Fixture(exact_match),)

    def run(self, audit: Audit) -> Finding:
        """FAIL on any difference, unless the reward is declared as stochastic."""
        cases = [*audit.right[:_ROWS], *audit.known_wrong[:_ROWS]]
        if not cases:
            return self.finding(Verdict.NOT_EXERCISED, "no rows")
        tries = [[r.value for r in audit.host.score(cases)] for _ in range(_TRIES)]
        for i, values in enumerate(zip(*tries, strict=True)):
            if len(set(values)) > 1:
                said = f"{_TRIES} tries gave {', '.join(str(v) for v in dict.fromkeys(values))}"
                (r,) = audit.score([cases[i]])
                verdict = Verdict.WARN if "stochastic" in audit.declared else Verdict.FAIL
                return self.finding(verdict, said, n=len(cases), grounds="counterexample", example=example(cases[i], r))
        power = 1 - 0.1**_TRIES - 0.9**_TRIES
        return self.finding(
            Verdict.PASS,
            f"{_TRIES} tries of {len(cases)} completions agree; a difference in one try of ten would have "
            f"been seen on each with chance {power:.0%}",
            n=len(cases),
            bound=bound(len(cases)),
        )
