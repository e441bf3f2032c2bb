"""J11: the same question asked again. More than one verdict in ten that flips is a WARN: noise, which training pays for."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.stats import wilson

_MOST = 60


class Stability(JudgeCheck):
    """Repeats of the same answers."""

    id = "J11"
    title = "stability"
    fix = "Lower the temperature, or average several verdicts."
    planted = "unstable"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """Answers whose verdict differs in any repeat."""
        some = audit.cases if len(audit.cases) <= _MOST else audit.rng(self.id).sample(audit.cases, _MOST)
        tries = [[r.value is not None and r.value >= audit.accept for r in audit.host.score(some)] for _ in range(audit.repeats)]
        flips = sum(len(set(column)) > 1 for column in zip(*tries, strict=True))
        low, high = wilson(flips, len(some))
        return self.finding(
            Verdict.WARN if flips / len(some) > 0.1 else Verdict.PASS,
            f"{flips / len(some):.0%} [{low:.0%}, {high:.0%}] of the verdicts differ in {audit.repeats} tries",
            n=len(some),
            effect=flips / len(some),
            interval=(low, high),
        )
