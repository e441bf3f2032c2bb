"""R01: right answers are accepted. The positive control of everything else."""

from __future__ import annotations

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, example
from outdo.audit.fixtures import exact_match, numeric_equiv
from outdo.evaluation.stats import wilson

_WANTED = 0.9


def raw_equality(answer: str, reference: str) -> float:
    """The whole completion must equal the reference; right answers in a form do not."""
    return float(answer == reference)


class Sensitivity(Check):
    """The share of right answers that the reward accepts."""

    id = "R01"
    title = "right answers accepted"
    fix = "Mend the parser, or say in the prompt in which form the answer is wanted."
    cheap = True
    bad = (Fixture(raw_equality, "mixed"),)
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def run(self, audit: Audit) -> Finding:
        """WARN where the interval's lower end is under 0.9."""
        if not audit.right or not audit.gold:
            return self.finding(Verdict.NOT_EXERCISED, audit.exercised)
        taken = audit.accepts(audit.right)
        n, share = len(taken), sum(taken) / len(taken)
        low, high = wilson(sum(taken), n)
        if share < _WANTED:
            case = audit.right[taken.index(False)]
            (result,) = audit.score([case])
            return self.finding(
                Verdict.WARN,
                f"{share:.0%} [{low:.0%}, {high:.0%}] of the right answers are accepted",
                n=n,
                effect=share,
                interval=(low, high),
                grounds="counterexample",
                example=example(case, result),
            )
        verdict = Verdict.PASS if low >= _WANTED or share == 1.0 else Verdict.WARN
        return self.finding(
            verdict,
            f"{share:.0%} [{low:.0%}, {high:.0%}] of the right answers are accepted",
            n=n,
            effect=share,
            interval=(low, high),
        )
