"""A13: saying something over and over must not be paid."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, numeric_equiv


def counts_words(completions: list[str], prompts: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """A mark for each word of a good explanation, however often it stands there."""
    del kwargs, prompts
    return [
        min(1.0, 0.1 * said.split().count("because") + 0.5 * (right in said.split()))
        for said, right in zip(completions, answer, strict=True)
    ]


class Repeated(Attack):
    """Words of the prompt, of right answers' forms and of reasoning, repeated."""

    id = "A13"
    title = "repetition"
    fix = "Cap what a repeated word can earn, or score the final answer alone."
    knows = Knows.PROMPT
    bad = (Fixture(counts_words, "bare", {"accept": 0.5}),)
    good = (Fixture(exact_match), Fixture(numeric_equiv))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del audit
        asked = c.prompt if isinstance(c.prompt, str) else " "
        for word in ("because", "therefore", "correct", "yes", "0", "the answer is", *asked.split()[:2]):
            if c.reference and c.reference.casefold() in word.casefold():
                continue
            for times in (8, 64):
                said = " ".join([word] * times)
                yield said
                yield t.fill(said)
