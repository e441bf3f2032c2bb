"""R08: no completion takes long: very long ones, nested brackets, texts on which regular expressions explode, huge powers."""

from __future__ import annotations

import math
import re

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged

_SLOPE = 1.5
BOMBS = (
    "a" * 100_000,
    "(" * 20_000,
    "{" * 20_000 + "}" * 20_000,
    "<answer>" * 5_000,
    "\\boxed{" * 5_000,
    "a" * 40 + "!",
    "9" * 40 + "!",
    " " * 50_000 + "x",
    "1" * 50_000,
    "x " * 3_000 + "y",
    "9**9**9**9",
    "9^9^9^9",
    "2**(2**(2**50))",
    "1e1000000",
    "aaa " * 40 + "!",
)


def redos(answer: str, reference: str) -> float:
    """A regular expression with nested repetition."""
    return float(re.fullmatch(r"(\s*\w+\s*)*", tagged(answer) or answer) is not None and reference in answer)


def pow_bomb(answer: str, reference: str) -> float:
    """Works powers out."""
    said = tagged(answer) or ""
    found = re.fullmatch(r"(\d+)((?:\*\*\d+)+)", said)
    if found:
        value = 1
        for part in reversed(found[2].split("**")[1:]):
            value = int(part) ** value
        return float(int(found[1]) ** value == int(reference))
    return float(said == reference)


class Resources(Check):
    """Time on texts that are made to take it."""

    id = "R08"
    title = "bounded time"
    fix = "Cap the length that is read, use linear regular expressions, never compute what the completion asks for."
    bad = (Fixture(redos, "bare", {"timeout_s": 1.0}), Fixture(pow_bomb, "sums", {"timeout_s": 1.0}))
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def run(self, audit: Audit) -> Finding:
        """FAIL for what does not end in time, WARN for time that grows much faster than the text."""
        if not audit.right:
            return self.finding(Verdict.NOT_EXERCISED, "no rows")
        c = audit.right[0]
        form = audit.forms[0] if audit.forms else None
        cases = [c.saying(text) for b in BOMBS for text in dict.fromkeys((b, form.fill(b) if form else b))]
        results = audit.score(cases)
        for case, r in zip(cases, results, strict=True):
            if r.error.startswith("out of time") or "MemoryError" in r.error or r.error == "ended its process":
                return self.finding(
                    Verdict.FAIL,
                    f"on {case.completion[:30]!r}… ({len(case.completion):,} characters) the reward is {r.error}"
                    if r.error.startswith("out")
                    else f"on {case.completion[:30]!r}… ({len(case.completion):,} characters) the reward {r.error}",
                    n=len(cases),
                    grounds="counterexample",
                    example=example(case, r),
                )
        slope, seconds = self._slope(audit)
        if slope > _SLOPE and seconds > 0.2:
            return self.finding(
                Verdict.WARN,
                f"time grows with the length to the power {slope:.1f}; {seconds:.2f} s for 200,000 characters",
                n=len(cases),
                effect=slope,
                grounds="controlled difference",
            )
        return self.finding(
            Verdict.PASS,
            f"{len(cases)} texts, the slowest {max(r.seconds for r in results):.2f} s",
            n=len(cases),
            bound=bound(len(cases)),
        )

    def _slope(self, audit: Audit) -> tuple[float, float]:
        """Of the time's logarithm over the length's, between 20,000 and 200,000 characters."""
        c, lengths = audit.right[0], (20_000, 200_000)
        times = [min(r.seconds for r in audit.host.score([c.saying("word, " * (n // 6) + c.completion)] * 2)) for n in lengths]
        return math.log(max(times[1], 1e-6) / max(times[0], 1e-6)) / math.log(lengths[1] / lengths[0]), times[1]
