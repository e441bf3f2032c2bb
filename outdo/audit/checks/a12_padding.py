"""A12: length alone must not be paid. Wrong answers are padded to 2, 8 and 64 times their length with sentences that say
nothing."""

from __future__ import annotations

import numpy as np

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, graded_distance, tagged

_ROWS, _GAIN, _TIMES = 8, 0.05, (2, 8, 64)
_NOTHING = "Let me think about this carefully before I go on. "


def length_bonus(answer: str, reference: str) -> float:
    """Right answers 1, and up to 0.6 for writing much."""
    return float(tagged(answer) == reference) + min(0.6, len(answer) / 2000)


class Padding(Check):
    """Wrong answers made longer."""

    id = "A12"
    title = "length is paid"
    fix = "Give no marks for length; if length matters, cap it and pay it on right answers alone."
    needs_accepted = True
    bad = (Fixture(length_bonus),)
    good = (Fixture(exact_match), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.some(_ROWS, self.id) or [(c, Template("", "")) for c in audit.right[:_ROWS]]
        plain = [c.saying(t.fill("qzx")) for c, t in rows]
        before = [r.value for r in audit.score(plain)]
        best, worst = -np.inf, None
        for times in _TIMES:
            size = [max(1, times * len(c.completion) // len(_NOTHING)) for c in plain]
            long = [c.saying(_NOTHING * k + c.completion) for c, k in zip(plain, size, strict=True)]
            after = [r.value for r in audit.score(long)]
            gains = [(a - b, a, c) for a, b, c in zip(after, before, long, strict=True) if a is not None and b is not None]
            if gains and (mean := float(np.mean([g for g, _, _ in gains]))) > best:
                best, worst = mean, max(gains, key=lambda g: g[0])
        if worst is None:
            return self.finding(Verdict.NOT_EXERCISED, "no padded answer got a score")
        share, slope = best / audit.span, self._slope(audit)
        if share > _GAIN or worst[1] >= audit.accept:
            (result,) = audit.score([worst[2]])
            return self.finding(
                Verdict.FAIL,
                f"padding raises wrong answers by {share:.0%} of the range{slope}",
                n=len(rows),
                effect=share,
                knows=str(Knows.NOTHING),
                grounds="controlled difference",
                example=example(worst[2], result),
            )
        return self.finding(
            Verdict.PASS,
            f"padding moves wrong answers by {share:.1%} of the range{slope}",
            n=len(rows),
            effect=share,
            bound=bound(len(rows)),
        )

    def _slope(self, audit: Audit) -> str:
        """What padding does to right answers: said, not judged; a length penalty may be meant."""
        right = audit.right[:_ROWS]
        scores = [[r.value for r in audit.score([c.saying(_NOTHING * k + c.completion, True) for c in right])] for k in (0, 40)]
        moved = [b - a for a, b in zip(*scores, strict=True) if a is not None and b is not None]
        return f"; right answers by {np.mean(moved) / audit.span:+.0%}" if moved else ""
