"""R04: what cannot be scored must not be better off than what is wrong.

A reward that raises or returns None on some completions has that sample left out. Where wrong answers score below zero, leaving
the sample out is a way to escape: the abstention premium.
"""

from __future__ import annotations

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, tagged

FUZZ = (
    "",
    "{",
    "}",
    "[[[[",
    "\\boxed{",
    "<answer>",
    "<answer></answer>",
    "\x00\x01",
    "\ud7ff",
    "(" * 500,
    "9" * 5000,
    "null",
    "🙂" * 50,
    "1e999",
    "</answer><answer>",
    "\n" * 100,
    "''",
    '"""',
    "%s%n",
    "../../etc/passwd",
)


def none_is_zero_among_negatives(completions: list[str], answer: list[str], **kwargs: object) -> list[float | None]:
    """Wrong answers cost a mark; what has no answer at all is None, which TRL leaves out or counts as nothing."""
    del kwargs
    return [None if tagged(c) is None else 1.0 if tagged(c) == a else -1.0 for c, a in zip(completions, answer, strict=True)]


class Exceptions(Check):
    """Well-formed answers first, then broken text."""

    id = "R04"
    title = "unscorable is no escape"
    fix = "Score what cannot be read as wrong; keep None for what you cannot judge for reasons of your own."
    cheap = True
    bad = (Fixture(none_is_zero_among_negatives),)
    good = (Fixture(exact_match),)

    def run(self, audit: Audit) -> Finding:
        """FAIL where an unscorable sample is worth more than a wrong one."""
        formed = [*audit.right, *audit.known_wrong]
        broken = [c for c, r in zip(formed, audit.score(formed), strict=True) if r.value is None]
        rows = audit.right[:4] or audit.wrong[:4]
        fuzz = [c.saying(text) for c in rows for text in FUZZ]
        failed = [(c, r) for c, r in zip(fuzz, audit.score(fuzz), strict=True) if r.value is None]
        n = len(formed) + len(fuzz)
        wrong = min([audit.low, *(r.value for r in audit.score(audit.known_wrong) if r.value is not None)], default=0.0)
        raised = [(c, r) for c, r in failed if r.error]
        if failed and wrong < 0.0:
            case, r = failed[0]
            return self.finding(
                Verdict.FAIL,
                f"{len(failed)} of {len(fuzz)} broken completions have no score ({r.error or 'None'}), which "
                f"counts as 0 or is left out; a wrong answer scores {wrong:g}",
                n=n,
                effect=-wrong,
                grounds="counterexample",
                example=example(case, r),
            )
        if broken:
            (r,) = audit.score(broken[:1])
            return self.finding(
                Verdict.WARN,
                f"{len(broken)} of {len(formed)} well-formed answers have no score ({r.error or 'None'})",
                n=n,
                grounds="counterexample",
                example=example(broken[0], r),
            )
        if len(raised) > 0.01 * len(fuzz):
            case, r = raised[0]
            return self.finding(
                Verdict.WARN,
                f"{len(raised)} of {len(fuzz)} broken completions: the reward {r.error}",
                n=n,
                effect=len(raised) / len(fuzz),
                grounds="counterexample",
                example=example(case, r),
            )
        return self.finding(
            Verdict.PASS,
            f"{len(formed)} answers and {len(fuzz)} broken completions, {len(failed)} without a score",
            n=n,
            bound=bound(n) if not failed else None,
        )
