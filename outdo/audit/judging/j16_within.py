"""J16: does it tell right from wrong answers to the same prompt? Group-relative training uses nothing else."""

from __future__ import annotations

import math

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import auc, within_auc

_FAIL, _WARN, _GAP = 0.6, 0.75, 0.15


class Within(JudgeCheck):
    """AUC within prompts, beside the pooled one."""

    id = "J16"
    title = "discrimination within prompts"
    fix = "A judge that knows which prompts are hard and not which answers are right cannot train; take a better one."
    planted = "difficulty"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL if the lower bound is under 0.6, WARN under 0.75, or where the pooled AUC is much better."""
        scores, right, prompts = audit.arrays()
        e = within_auc(scores, right, prompts, seed=audit.seed)
        if e.n < 5:
            return self.finding(Verdict.NOT_EXERCISED, f"{e.n} prompts have right and wrong answers; 5 are needed")
        pooled = auc(scores[right], scores[~right]) if right.any() and not right.all() else math.nan
        bad = e.low < _FAIL
        verdict = (
            Verdict.FAIL
            if bad and e.high < _WARN
            else Verdict.WARN
            if bad or e.low < _WARN or pooled - e.value > _GAP
            else Verdict.PASS
        )
        return self.finding(
            verdict,
            f"AUC within prompts {e.value:.2f} [{e.low:.2f}, {e.high:.2f}] ({e.n} prompts), pooled {pooled:.2f}",
            n=e.n,
            effect=e.value,
            interval=(e.low, e.high),
        )
