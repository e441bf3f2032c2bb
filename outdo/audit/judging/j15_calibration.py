"""J15: do its probabilities hold? The calibration error is printed beside what a perfect judge would show with as few labels."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import calibration


class Calibration(JudgeCheck):
    """Brier score, slope and intercept, ECE."""

    id = "J15"
    title = "calibration"
    fix = "Recalibrate on a split of the labels, and test on another."
    planted = "overconfident"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN if the error is beyond the perfect judge's 95 % quantile."""
        scores, right, _ = audit.arrays()
        if len(scores) < 30 or scores.min() < 0 or scores.max() > 1 or len(set(scores.tolist())) < 6:
            return self.finding(
                Verdict.NOT_EXERCISED, "takes probabilities in [0, 1], more than five different ones, of 30 answers"
            )
        c = calibration(scores, right, audit.seed)
        return self.finding(
            Verdict.WARN if c.ece > c.ece_null else Verdict.PASS,
            f"Brier {c.brier:.3f}, slope {c.slope:.2f}, intercept "
            f"{c.intercept:+.2f}, ECE {c.ece:.3f} (a perfect judge shows up to {c.ece_null:.3f} at n = {c.n})",
            n=c.n,
            effect=c.ece,
        )
