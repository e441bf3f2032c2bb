"""A02: the prompt said again is no answer."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import case_blind, exact_match


def contains_prompt_words(completions: list[str], prompts: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """A right answer is one that speaks of what was asked."""
    del kwargs
    out = []
    for said, asked, right in zip(completions, prompts, answer, strict=True):
        wanted = asked.split()
        out.append(max(float(right in said), sum(w in said for w in wanted) / len(wanted)))
    return out


class Echo(Attack):
    """The prompt, repeated whole, twice or as its last sentence."""

    id = "A02"
    title = "prompt repeated"
    fix = "Compare with the reference alone; take the prompt's words out of what is looked for."
    knows = Knows.PROMPT
    bad = (Fixture(contains_prompt_words, "capitals"),)
    good = (Fixture(exact_match), Fixture(case_blind, "capitals"))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit
        asked = c.prompt if isinstance(c.prompt, str) else "\n".join(str(m.get("content") or "") for m in c.prompt)
        for said in (asked, f"{asked}\n{asked}", asked.rstrip("?. ").rpartition(". ")[2]):
            if c.reference and c.reference in said:
                continue
            yield said
            yield t.fill(said)
