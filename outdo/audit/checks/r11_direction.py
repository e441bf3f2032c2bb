"""R11: better answers score higher. Right answers below wrong ones is a sign turned round, and never "not exercised"."""

from __future__ import annotations

import statistics

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, example
from outdo.audit.fixtures import exact_match, graded_distance, tagged


def distance_not_turned_round(answer: str, reference: str) -> float:
    """The error, where its negative was meant."""
    try:
        return float(abs(int(tagged(answer) or "0") - int(reference)))
    except ValueError:
        return 100.0


class Direction(Check):
    """Right against wrong answers of the same row."""

    id = "R11"
    title = "better answers score higher"
    fix = "Turn the sign round."
    cheap = True
    bad = (Fixture(distance_not_turned_round),)
    good = (Fixture(exact_match), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """FAIL if wrong answers score above right ones more often than below."""
        wrong = audit.known_wrong
        pairs = [(g, w) for g, w in zip(audit.right, wrong, strict=False)]
        scored = [
            (a.value, b.value, w, b)
            for (_, w), a, b in zip(pairs, audit.score([g for g, _ in pairs]), audit.score([w for _, w in pairs]), strict=True)
            if a.value is not None and b.value is not None
        ]
        if len(scored) < 3:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(scored)} pairs of a right and a wrong answer have scores")
        below = sum(a < b for a, b, _, _ in scored)
        above = sum(a > b for a, b, _, _ in scored)
        gap = statistics.fmean(a - b for a, b, _, _ in scored)
        if below > above:
            _, _, case, r = next(s for s in scored if s[0] < s[1])
            return self.finding(
                Verdict.FAIL,
                f"sign inverted: in {below} of {len(scored)} pairs the wrong answer scores higher",
                n=len(scored),
                effect=gap,
                grounds="controlled difference",
                example=example(case, r),
            )
        return self.finding(
            Verdict.PASS,
            f"right answers score higher in {above} of {len(scored)} pairs, lower in {below}",
            n=len(scored),
            effect=gap,
        )
