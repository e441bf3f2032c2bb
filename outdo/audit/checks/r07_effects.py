"""R07: scoring changes nothing: not its arguments, not the random generators, folder, environment or open files."""

from __future__ import annotations

import random
from typing import Any

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, iou_clipped

_ROWS = 8


def sorts_references_in_place(answer: str, reference: list[Any]) -> float:
    """Sorts the data's own list; the next sample of the row sees it sorted."""
    reference.sort(reverse=True)
    random.random()
    return float(str(sorted(reference)) in answer)


class Effects(Check):
    """What differs after scoring."""

    id = "R07"
    title = "scoring changes nothing"
    fix = "Copy before sorting or changing; use random.Random(seed) of your own."
    cheap = True
    bad = (Fixture(sorts_references_in_place, "boxes"),)
    good = (Fixture(exact_match), Fixture(iou_clipped, "boxes", {"score_range": (0.0, 1.0)}))

    def run(self, audit: Audit) -> Finding:
        """FAIL for changed arguments, WARN for the rest."""
        cases = [*audit.right[:_ROWS], *audit.known_wrong[:_ROWS]]
        if not cases:
            return self.finding(Verdict.NOT_EXERCISED, "no rows")
        audit.host.score(cases[:1], "watched")  # what is imported at the first call is no side effect
        results = audit.host.score(cases, "watched")
        for case, r in zip(cases, results, strict=True):
            if "its arguments" in r.changed:
                return self.finding(
                    Verdict.FAIL,
                    f"it changes {', '.join(r.changed)}",
                    n=len(cases),
                    grounds="counterexample",
                    example=example(case, r),
                )
        changed = dict.fromkeys(what for r in results for what in r.changed)
        if changed:
            i = next(i for i, r in enumerate(results) if r.changed)
            return self.finding(
                Verdict.WARN,
                f"it changes {', '.join(changed)}",
                n=len(cases),
                grounds="counterexample",
                example=example(cases[i], results[i]),
            )
        return self.finding(
            Verdict.PASS, f"nothing is changed by scoring {len(cases)} completions", n=len(cases), bound=bound(len(cases))
        )
