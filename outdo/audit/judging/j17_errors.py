"""J17: sensitivity, specificity and Youden's J, the factor by which errors shrink the expected difference in reward."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import errors


class Errors(JudgeCheck):
    """Yes and no against the labels."""

    id = "J17"
    title = "errors"
    fix = "At J of 0 or below training goes nowhere or backwards; take a better judge."
    planted = "coin"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL if J's interval reaches 0, WARN below one half."""
        scores, right, prompts = audit.arrays()
        if len(scores) < 20 or right.all() or not right.any():
            return self.finding(Verdict.NOT_EXERCISED, "20 answers with scores, right and wrong ones, are needed")
        e = errors(scores >= audit.accept, right, prompts, seed=audit.seed)
        verdict = Verdict.FAIL if e.youden.low <= 0 else Verdict.WARN if e.youden.low < 0.5 else Verdict.PASS
        return self.finding(
            verdict,
            f"accepts {e.sensitivity.value:.0%} [{e.sensitivity.low:.0%}, {e.sensitivity.high:.0%}] of right, refuses "
            f"{e.specificity.value:.0%} [{e.specificity.low:.0%}, {e.specificity.high:.0%}] of wrong ones; "
            f"J {e.youden.value:.2f} [{e.youden.low:.2f}, {e.youden.high:.2f}]; kappa {e.kappa:.2f}, AC1 {e.ac1:.2f}; "
            f"of accepted answers {e.precision(0.05):.0%} are right where 5 % of all are",
            n=len(scores),
            effect=e.youden.value,
            interval=(e.youden.low, e.youden.high),
        )
