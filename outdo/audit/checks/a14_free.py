"""A14: the free reward: what the best fixed strategy earns that never looks at the right answer.

Strategies are tried on one half of the rows; the best is measured on the other half. FAIL from half of the range on, WARN from
a tenth. The rate of the most frequent answer is free by nature and not counted against the reward: A15 looks at that.
"""

from __future__ import annotations

import numpy as np

from outdo.audit.attack import equal, signature
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Check, Finding, Fixture, Knows, Verdict, example
from outdo.audit.cases import FORMS, HOLE, Template
from outdo.audit.fixtures import correct_gated_format, exact_match, graded_distance, tagged
from outdo.evaluation.stats import mean_interval

_FAIL, _WARN = 0.5, 0.1


def format_half(answer: str, reference: str) -> float:
    """Half of the marks for the form."""
    said = tagged(answer)
    return 0.6 * float(said is not None) + 0.4 * float(said == reference)


class Free(Check):
    """The best strategy that knows nothing, or the prompt."""

    id = "A14"
    title = "free reward"
    fix = "Pay the form only on right answers, or take its marks down until they are worth less than a right answer in ten."
    cheap = True
    bad = (Fixture(format_half),)
    good = (Fixture(correct_gated_format), Fixture(exact_match), Fixture(graded_distance))

    def run(self, audit: Audit) -> Finding:
        """See the head of this file."""
        rows = audit.right
        if len(rows) < 6 or not audit.gold:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(rows)} rows with a right answer; 6 are needed")
        order = audit.rng(self.id).sample(range(len(rows)), len(rows))
        choosing, measuring = order[: len(order) // 2], order[len(order) // 2 :]
        names = strategies(audit)
        means = {name: _mean(audit, [_said(rows[i], text) for i in choosing]) for name, text in names.items()}
        known = {k: v for k, v in means.items() if v is not None}
        if not known:
            return self.finding(Verdict.NOT_EXERCISED, "no fixed strategy got a score")
        best = max(known, key=lambda k: known[k])
        cases = [c for i in measuring if not equal((c := _said(rows[i], names[best])).completion, c.reference)]
        values = [(r.value - audit.range[0]) / audit.span for r in audit.score(cases) if r.value is not None]
        if len(values) < 3:
            return self.finding(Verdict.UNDERPOWERED, f"{len(values)} rows to measure on", n=len(values))
        mean, low, high, n = mean_interval(values)
        verdict = Verdict.FAIL if mean >= _FAIL else Verdict.WARN if mean > _WARN else Verdict.PASS
        result = audit.score(cases[:1])[0]
        return self.finding(
            verdict,
            f"{best} earns {mean:.0%} of the range on every prompt",
            n=n,
            effect=mean,
            interval=(max(0.0, low), min(1.0, high)),
            knows=str(Knows.NOTHING),
            grounds="counterexample",
            example=example(cases[0], result) if verdict != Verdict.PASS else None,
            signature=signature(cases[0]) if verdict != Verdict.PASS else None,
        )


def strategies(audit: Audit) -> dict[str, str]:
    """Name -> completion; {prompt} stands for the prompt."""
    out = {
        "silence": "",
        "the prompt said again": "{prompt}",
        '"I do not know."': "I do not know.",
        "a long text": "Let me think about this carefully. " * 60,
    }
    for i, form in enumerate(audit.forms or [*_usual()]):
        out |= {
            f"form {i + 1} with nothing in it": form.fill(""),
            f"form {i + 1} with junk in it": form.fill("qzx"),
            f"form {i + 1} with the prompt in it": form.fill("{prompt}"),
            f"form {i + 1} after a long text": "Let me think about this carefully. " * 60 + form.fill("qzx"),
        }
    return out


def _usual() -> list[Template]:
    return [Template(*f.split(HOLE)) for f in FORMS if HOLE in f][:5]


def _said(c: Case, text: str) -> Case:
    asked = c.prompt if isinstance(c.prompt, str) else "\n".join(str(m.get("content") or "") for m in c.prompt)
    return c.saying(text.replace("{prompt}", asked))


def _mean(audit: Audit, cases: list[Case]) -> float | None:
    values = [r.value for r in audit.score(cases) if r.value is not None]
    return float(np.mean(values)) if len(values) >= len(cases) / 2 and values else None
