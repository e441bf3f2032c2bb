"""J19: how far the judge that trains and a held-out one agree before training: what L02 holds later differences against."""

from __future__ import annotations

import numpy as np

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck


class Second(JudgeCheck):
    """Disagreement of two judges."""

    id = "J19"
    title = "a second judge"
    fix = "Look at the answers on which they differ; one of them is wrong."

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN above a quarter."""
        if audit.second is None:
            return self.finding(Verdict.NOT_EXERCISED, "no second judge is given")
        other = audit.second.score(audit.cases)
        both = [
            (a.value, b.value)
            for a, b in zip(audit.score(audit.cases), other, strict=True)
            if a.value is not None and b.value is not None
        ]
        if len(both) < 10:
            return self.finding(Verdict.UNDERPOWERED, f"{len(both)} answers have both scores", n=len(both))
        cut = float(np.median([b for _, b in both])) if max(b for _, b in both) > 1 else 0.5
        differ = float(np.mean([(a >= audit.accept) != (b >= cut) for a, b in both]))
        return self.finding(
            Verdict.WARN if differ > 0.25 else Verdict.PASS,
            f"the two judges differ on {differ:.0%} of {len(both)} answers",
            n=len(both),
            effect=differ,
        )
