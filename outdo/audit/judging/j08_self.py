"""J08: does a judge prefer its own model's answers beyond what gold explains? Observed, not controlled: WARN at most."""

from __future__ import annotations

import numpy as np

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck


class SelfPreference(JudgeCheck):
    """Acceptance of own and others' answers of the same rightness."""

    id = "J08"
    title = "own answers preferred"
    fix = "Judge with a model of another family."

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """Rows need a column `source` with the model's name, and the judge a model."""
        own = getattr(getattr(audit.of, "config", None), "model", None) or getattr(audit.of, "model", None)
        named = [(c, v, c.row.get("source")) for c, v in audit.scored if c.row.get("source")]
        if not own or not any(s == own for _, _, s in named) or not any(s != own for _, _, s in named):
            return self.finding(Verdict.NOT_EXERCISED, "rows have no column source with the judge's model and another")
        gaps = []
        for side in (True, False):
            mine = [v >= audit.accept for c, v, s in named if c.right is side and s == own]
            others = [v >= audit.accept for c, v, s in named if c.right is side and s != own]
            if mine and others:
                gaps.append(float(np.mean(mine) - np.mean(others)))
        gap = float(np.mean(gaps)) if gaps else 0.0
        return self.finding(
            Verdict.WARN if gap > 0.1 else Verdict.PASS,
            f"own answers are accepted {gap:+.0%} at equal rightness",
            n=len(named),
            effect=gap,
        )
