"""J14: is the reference read? With another row's reference, right answers should be accepted less."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict, same
from outdo.audit.judge import LEVEL, JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import mcnemar


class Reference(JudgeCheck):
    """Right answers against their own and another reference."""

    id = "J14"
    title = "reference read"
    fix = "Show the reference to the judge and ask it to compare."
    planted = "blind"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL if no fall is seen (exact McNemar)."""
        right = [c for c in audit.cases if c.right and c.column and c.reference][:60]
        other = [(c, next((o for o in right if not same(o.reference, c.reference)), None)) for c in right]
        pairs = [(c, c.against(o)) for c, o in other if o is not None]
        if len(pairs) < 10:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(pairs)} right answers with a reference; 10 are needed")
        both = zip(*(audit.accepts([p[k] for p in pairs]) for k in (0, 1)), strict=True)
        taken = [(x, y) for x, y in both if x is not None and y is not None]
        a, b = (sum(t[k] for t in taken) / max(1, len(taken)) for k in (0, 1))
        p = mcnemar(sum(x and not y for x, y in taken), sum(y and not x for x, y in taken))
        unread = Verdict.FAIL if len(taken) >= 30 else Verdict.UNDERPOWERED
        return self.finding(
            Verdict.PASS if p < LEVEL else unread,
            f"right answers are accepted {a:.0%} with their reference, {b:.0%} with another (p = {p:.2g})",
            n=len(pairs),
            effect=a - b,
        )
