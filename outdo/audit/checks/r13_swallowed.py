"""R13: a zero that came out of an `except` is not a zero that was earned. Exceptions inside the reward are traced on right
answers."""

from __future__ import annotations

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, graded_distance, tagged


def swallows(answer: str, reference: str) -> float:
    """Breaks on large numbers, and says wrong."""
    try:
        return float(int(tagged(answer) or "") == int(reference) and {"50": 1}.get(reference[:2], 1) / (int(reference) < 75))
    except Exception:
        return 0.0


class Swallowed(Check):
    """Right answers that score low after an exception."""

    id = "R13"
    title = "errors taken for wrong answers"
    fix = "Catch only what a wrong answer can raise; let the rest out, or return None."
    bad = (Fixture(swallows),)
    good = (Fixture(exact_match), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """WARN where a right answer is refused and the reward had swallowed an exception."""
        if not audit.right or not audit.gold:
            return self.finding(Verdict.NOT_EXERCISED, audit.exercised)
        results = audit.host.score(audit.right, "traced")
        bad = [
            (c, r)
            for c, r in zip(audit.right, results, strict=True)
            if r.raised and (r.value is None or r.value < audit.accept) and not r.error
        ]
        if bad:
            case, r = bad[0]
            return self.finding(
                Verdict.WARN,
                f"{len(bad)} of {len(results)} right answers are refused after {r.raised[0]}",
                n=len(results),
                effect=len(bad) / len(results),
                grounds="counterexample",
                example=example(case, r),
            )
        return self.finding(
            Verdict.PASS,
            f"no exception stands behind the score of {len(results)} right answers",
            n=len(results),
            bound=bound(len(results)),
        )
