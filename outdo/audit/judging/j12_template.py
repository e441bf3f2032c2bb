"""J12: changes that mean nothing (spaces, a line break, a closing word) must not change the verdict."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck

_MOST = 60
_DRESSES = ("{}\n", " {}", "{}\n\n", "{} ")


class Template(JudgeCheck):
    """The same answer in another dress."""

    id = "J12"
    title = "harmless changes"
    fix = "Strip the answer before it is shown to the judge."
    planted = "spaces"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN if more than one verdict in ten flips."""
        some = audit.cases if len(audit.cases) <= _MOST else audit.rng(self.id).sample(audit.cases, _MOST)
        rng = audit.rng(f"{self.id} dress")
        before = audit.accepts(some)
        after = audit.accepts([c.saying(rng.choice(_DRESSES).format(c.completion), c.right) for c in some])
        flips = sum(a != b for a, b in zip(before, after, strict=True))
        return self.finding(
            Verdict.WARN if flips / len(some) > 0.1 else Verdict.PASS,
            f"{flips} of {len(some)} verdicts change with spaces",
            n=len(some),
            effect=flips / len(some),
        )
