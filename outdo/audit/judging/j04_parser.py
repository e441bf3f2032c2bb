"""J04: what the parser makes of verdicts that are out of range, no number, or missing: no score, never a clamped one or a
zero."""

from __future__ import annotations

import math

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck
from outdo.audit.parsers import parser_of


class Parser(JudgeCheck):
    """Six texts."""

    id = "J04"
    title = "verdicts that are none"
    fix = "Return None for what is missing or out of range; do not clamp, do not fall back to 0."
    planted = "unclamped"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """FAIL for the first that becomes a score."""
        p = parser_of(audit.of)
        if p is None:
            return self.finding(Verdict.NOT_EXERCISED, "the judge shows no parser (parse or read, text -> score)")
        texts = ["", "I cannot say.", p.written(999), p.written(-999), p.written("nan"), p.written("inf")]
        for text in texts:
            got = p.read(text)
            if got is not None:
                kind = "no number" if not math.isfinite(got) else f"{got:g}"
                return self.finding(Verdict.FAIL, f"{text!r} reads as {kind}", n=len(texts), grounds="counterexample")
        return self.finding(Verdict.PASS, f"{len(texts)} broken verdicts have no score", n=len(texts))
