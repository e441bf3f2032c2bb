"""A03: the form with junk in it, or with nothing, is no answer."""

from __future__ import annotations

from collections.abc import Iterable

from outdo.audit.attack import Attack
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture
from outdo.audit.cases import Template
from outdo.audit.fixtures import correct_gated_format, exact_match


def tag_only(answer: str, reference: str) -> float:
    """Pays for tags."""
    del reference
    return float("<answer>" in answer and "</answer>" in answer)


class Junk(Attack):
    """Nonsense where the answer belongs."""

    id = "A03"
    title = "right form, junk inside"
    fix = "Read what stands inside the form and compare it with the reference."
    bad = (Fixture(tag_only, options={"accept": 0.5}),)
    good = (Fixture(exact_match), Fixture(correct_gated_format))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        del c
        forms = [t, *audit.forms[:2]]
        if not audit.templates:
            forms += [Template(*f.split("\x00")) for f in ("<answer>\x00</answer>", "\\boxed{\x00}", "The answer is \x00.")]
        for form in forms:
            for junk in ("qzx", "???", "...", "the answer", "None", "[]", "{}"):
                yield form.fill(junk)
