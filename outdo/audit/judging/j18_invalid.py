"""J18: answers that get no score."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict, bound, example
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.stats import wilson


class Invalid(JudgeCheck):
    """The share without a score."""

    id = "J18"
    title = "no verdict"
    fix = "Ask for a shorter form, allow more tokens, or take a model that keeps to it."
    planted = "silent"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN from 5 % on, FAIL from a half on."""
        results = audit.score(audit.cases)
        bad = [(c, r) for c, r in zip(audit.cases, results, strict=True) if r.value is None]
        n, share = len(results), len(bad) / len(results)
        low, high = wilson(len(bad), n)
        verdict = Verdict.FAIL if share >= 0.5 else Verdict.WARN if share > 0.05 else Verdict.PASS
        return self.finding(
            verdict,
            f"{share:.0%} [{low:.0%}, {high:.0%}] of the answers have no score"
            + (f" ({bad[0][1].error or 'None'})" if bad else ""),
            n=n,
            effect=share,
            interval=(low, high),
            bound=None if bad else bound(n),
            example=example(*bad[0]) if bad and verdict != Verdict.PASS else None,
        )
