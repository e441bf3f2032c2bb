"""R06: a sample's score does not depend on the others, on their order, on being there twice, or on the thread."""

from __future__ import annotations

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, ranked_by_length, tagged

_ROWS = 8


def batch_state(completions: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """Scores are normalised over the batch."""
    del kwargs
    raw = [float(tagged(c) == a) for c, a in zip(completions, answer, strict=True)]
    return [r / max(1.0, sum(raw)) for r in raw]


class Isolation(Check):
    """Alone, together, reversed, twice, in a thread."""

    id = "R06"
    title = "a score of its own"
    fix = "Score every sample by itself; compare within a group only if that is meant, and declare it."
    cheap = True
    bad = (Fixture(batch_state),)
    good = (Fixture(exact_match), Fixture(ranked_by_length, options={"declared": ("group_relative",)}))

    def run(self, audit: Audit) -> Finding:
        """FAIL on any difference, unless the reward is declared as group-relative."""
        cases = [*audit.right[:_ROWS], *audit.known_wrong[: _ROWS // 2]]
        if len(cases) < 2:
            return self.finding(Verdict.NOT_EXERCISED, "two rows are needed")
        if "stochastic" in audit.declared:
            return self.finding(Verdict.NOT_EXERCISED, "the reward is declared as stochastic")
        alone = [r.value for r in audit.score(cases)]
        ways = {
            "in one batch": [r.value for r in audit.host.score(cases, "together")],
            "in reverse order": [r.value for r in audit.host.score(cases[::-1], "together")][::-1],
            "twice in a batch": [r.value for r in audit.host.score([*cases, *cases], "together")][: len(cases)],
            "in a thread": [r.value for r in audit.host.score(cases, "thread")],
        }
        meant = "group_relative" in audit.declared or audit.host.about.get("grouped")
        for way, values in ways.items():
            differ = [i for i, (a, b) in enumerate(zip(alone, values, strict=True)) if a != b and not _close(a, b)]
            if differ and not (meant and way != "in a thread"):
                i = differ[0]
                (r,) = audit.score([cases[i]])
                return self.finding(
                    Verdict.FAIL,
                    f"{len(differ)} of {len(cases)} scores differ {way}: {alone[i]} alone, {values[i]} {way}",
                    n=len(cases),
                    grounds="controlled difference",
                    example=example(cases[i], r),
                )
        return self.finding(
            Verdict.PASS,
            f"{len(cases)} scores are the same alone, {', '.join(ways)}"
            if not meant
            else "declared as group-relative; the same alone and in a thread",
            n=len(cases),
            bound=bound(len(cases)),
        )


def _close(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) <= 1e-6 * max(1.0, abs(a))
