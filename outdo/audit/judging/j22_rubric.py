"""J22: criteria that never vary, that repeat another, or whose removal changes nothing, are no criteria."""

from __future__ import annotations

import numpy as np

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck


class Structure(JudgeCheck):
    """The parts of the score."""

    id = "J22"
    title = "criteria that say nothing"
    fix = "Drop or sharpen them."

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN for the first of each kind."""
        parts = [dict(r.parts) for r in audit.score(audit.cases) if r.value is not None and len(r.parts) > 1]
        if len(parts) < 20:
            return self.finding(Verdict.NOT_EXERCISED, "the judge gives no parts, or fewer than 20 answers have them")
        columns = {k: np.array([p.get(k) if p.get(k) is not None else np.nan for p in parts], float) for k in parts[0]}
        fixed = [k for k, v in columns.items() if np.nanstd(v) < 1e-9]
        pairs = [
            (a, b)
            for a in columns
            for b in columns
            if a < b
            and a not in fixed
            and b not in fixed
            and abs(np.corrcoef(np.nan_to_num(columns[a]), np.nan_to_num(columns[b]))[0, 1]) > 0.95
        ]
        said = [*(f"{k} never varies" for k in fixed), *(f"{a} and {b} say the same" for a, b in pairs)]
        return self.finding(
            Verdict.WARN if said else Verdict.PASS, "; ".join(said) or f"{len(columns)} criteria differ", n=len(parts)
        )
