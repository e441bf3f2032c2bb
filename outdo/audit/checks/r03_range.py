"""R03: scores stay in the range: no NaN, no infinity, nothing above what the best right answer gets."""

from __future__ import annotations

import ast

from outdo.audit.audit import Audit
from outdo.audit.base import Case, Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, iou_clipped, tagged

_NUMBERS = (
    "-1",
    "0",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "[0, 0, 0, 0]",
    "[1e9, 1e9, -1e9, -1e9]",
    "[-1000, -1000, 1000, 1000]",
    "1/0",
)


def iou_unclipped(answer: str, reference: list[float]) -> float:
    """Overlap of two boxes; one turned inside out has an area below zero."""
    try:
        a, b = ast.literal_eval(tagged(answer) or ""), reference
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return float(w * h / area) if area else float("nan")
    except (ValueError, SyntaxError, TypeError, IndexError, MemoryError):
        return 0.0


class Range(Check):
    """Numbers that are none, and scores above a right answer's."""

    id = "R03"
    title = "scores within the range"
    fix = "Clip the score, and score what gives no finite number as wrong."
    cheap = True
    bad = (Fixture(iou_unclipped, "boxes"),)
    good = (Fixture(iou_clipped, "boxes", {"score_range": (0.0, 1.0)}), Fixture(exact_match))

    def run(self, audit: Audit) -> Finding:
        """FAIL on the first that is outside."""
        cases: list[Case] = [*audit.right, *audit.known_wrong]
        cases += [c.saying(t.fill(x)) for c, t in audit.some(8, self.id) for x in _NUMBERS]
        results = audit.score(cases)
        top, low = max(audit.range[1], max(audit.gold, default=0.0)), audit._range[0] if audit._range else None
        for case, r in zip(cases, results, strict=True):
            finite = not r.error.startswith("returned")
            above = r.value is not None and r.value > top + 1e-6
            below = r.value is not None and low is not None and r.value < low - 1e-6
            if not finite or above or below:
                why = (
                    r.error
                    or f"{r.value:g}, {'above the best right answer' if above else 'below the range'} ({top if above else low:g})"
                )
                return self.finding(
                    Verdict.FAIL,
                    f"the reward gave {why.removeprefix('returned ')}",
                    n=len(cases),
                    grounds="counterexample",
                    example=example(case, r),
                )
        return self.finding(
            Verdict.PASS,
            f"{len(cases)} scores, all between {audit.range[0]:g} and {top:g}",
            n=len(cases),
            bound=bound(len(cases)),
        )
