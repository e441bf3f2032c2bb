"""J20: the ceiling that the judge sets: what choosing the best of n by its score gains, of what choosing by gold would gain."""

from __future__ import annotations

import numpy as np

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import best_of_n


class Ceiling(JudgeCheck):
    """Best of n on the labelled answers."""

    id = "J20"
    title = "best-of-n ceiling"
    fix = "Where gold falls as n grows, the judge's favourites are not the best answers: audit them, take a better judge."
    planted = "anti"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL where the best of n by the judge is worse than one at random, WARN below half of the gain."""
        scores, right, prompts = audit.arrays()
        counts = np.bincount(prompts) if len(prompts) else np.zeros(1, int)
        n = int(np.median(counts[counts > 0])) if counts.any() else 0
        chosen = [np.flatnonzero(prompts == p)[:n] for p in np.unique(prompts) if (prompts == p).sum() >= n] if n >= 2 else []
        if n < 2 or len(chosen) < 10:
            return self.finding(Verdict.NOT_EXERCISED, "two answers each to ten prompts are needed")
        curve = best_of_n(
            scores[np.array(chosen)],
            right[np.array(chosen)].astype(float),
            [k for k in (1, 2, 4, 8, 16, 32) if k <= n],
            audit.seed,
        )
        base, last = curve[0], curve[-1]
        gain, most = last[1].value - base[1].value, last[2].value - base[2].value
        share = gain / most if most > 0.02 else float("nan")
        shown = ", ".join(f"n = {k}: {g.value:.2f} [{g.low:.2f}, {g.high:.2f}] of {o.value:.2f}" for k, g, o in curve)
        worse = last[1].high < base[1].value
        verdict = Verdict.FAIL if worse else Verdict.WARN if share < 0.5 else Verdict.PASS
        return self.finding(
            verdict,
            f"gold of the judge's best, of the truly best: {shown}; {share:.0%} of the possible gain",
            n=len(chosen),
            effect=share,
        )
