"""J06: which of two is shown first. A judge of pairs must choose the same one in both orders."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import FLOOR, LEVEL, JudgeAudit, JudgeCheck
from outdo.evaluation.agreement import mcnemar


class Position(JudgeCheck):
    """Both orders of every pair."""

    id = "J06"
    title = "position"
    fix = "Ask in both orders and count a win only where they agree (judge llm, mode pairs, does)."
    planted = "first"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL if the first is chosen more often, beyond chance and five points."""
        choose = getattr(audit.of, "compare", audit.of)
        if not audit.pairs or not callable(choose):
            return self.finding(Verdict.NOT_EXERCISED, "no pairs, or the judge compares none: judge(prompt, a, b)")
        first = second = 0
        for row in audit.pairs:
            a, b = (choose(row["prompt"], x, y) for x, y in ((row["chosen"], row["rejected"]), (row["rejected"], row["chosen"])))
            first += a >= 0.5 and b >= 0.5
            second += a < 0.5 and b < 0.5
        n = len(audit.pairs)
        share = 0.5 + (first - second) / (2 * n)
        p = min(1.0, 2 * min(mcnemar(first, second), mcnemar(second, first)))
        said = (
            f"the first is chosen {share:.0%} of the time ({first} pairs always the first, {second} always the second, "
            f"of {n}); p = {p:.2g}"
        )
        fails = p < LEVEL and abs(share - 0.5) >= FLOOR
        return self.finding(
            Verdict.FAIL if fails else Verdict.PASS if n >= 30 else Verdict.UNDERPOWERED, said, n=n, effect=share - 0.5
        )
