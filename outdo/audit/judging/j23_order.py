"""J23: the order of the criteria must not change the verdict."""

from __future__ import annotations

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck

_MOST = 40


class Order(JudgeCheck):
    """The same judge with its criteria turned round."""

    id = "J23"
    title = "order of criteria"
    fix = "Ask for one criterion at a time."

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN if more than one verdict in ten flips."""
        criteria = getattr(getattr(audit.of, "config", None), "criteria", ())
        if len(criteria) < 2:
            return self.finding(Verdict.NOT_EXERCISED, "the judge has no criteria, or one")
        from outdo.audit.host import Host

        turned = type(audit.of)(audit.of.config.model_copy(update={"criteria": tuple(reversed(criteria))}))
        some = audit.cases[:_MOST]
        with Host(lambda: turned, audit.host.timeout_s, audit.host.memory_bytes, False) as host:
            after = [None if r.value is None else r.value >= audit.accept for r in host.score(some)]
        flips = sum(a != b for a, b in zip(audit.accepts(some), after, strict=True))
        return self.finding(
            Verdict.WARN if flips / len(some) > 0.1 else Verdict.PASS, f"{flips} of {len(some)} verdicts change", n=len(some)
        )
