"""J14: is the reference read? With another row's reference, right answers should be accepted less."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict, same
from outdo.audit.judge import JudgeAudit, JudgeCheck


class Reference(JudgeCheck):
    """Right answers against their own and another reference."""

    id = "J14"
    title = "reference read"
    fix = "Show the reference to the judge and ask it to compare."
    planted = "blind"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL if acceptance falls by less than a tenth of itself."""
        right = [c for c in audit.cases if c.right and c.column and c.reference][:60]
        other = [(c, next((o for o in right if not same(o.reference, c.reference)), None)) for c in right]
        pairs = [(c, c.against(o)) for c, o in other if o is not None]
        if len(pairs) < 10:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(pairs)} right answers with a reference; 10 are needed")
        own, swapped = ([a for a in audit.accepts([p[k] for p in pairs]) if a is not None] for k in (0, 1))
        a, b = sum(own) / max(1, len(own)), sum(swapped) / max(1, len(swapped))
        return self.finding(
            Verdict.FAIL if b > 0.9 * a else Verdict.PASS,
            f"right answers are accepted {a:.0%} with their reference, {b:.0%} with another",
            n=len(pairs),
            effect=a - b,
        )
