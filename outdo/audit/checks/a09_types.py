"""A09: another number that is written alike, or no number: times and by 100, the sign, the point, what is cut off, nan and
inf."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fractions import Fraction

from outdo.audit.attack import Attack, equal
from outdo.audit.audit import Audit
from outdo.audit.base import Case, Fixture, Knows
from outdo.audit.cases import Template
from outdo.audit.fixtures import exact_match, numeric_equiv, tagged


def alnum_only(answer: str, reference: str) -> float:
    """Compares letters and digits, so that signs and points are gone."""
    said = re.sub(r"\W", "", tagged(answer) or "")
    return float(said == re.sub(r"\W", "", reference))


def percent_lenient(answer: str, reference: str) -> float:
    """12 and 0.12 and 1200 are all one."""
    try:
        said = float((tagged(answer) or "").rstrip("%"))
    except ValueError:
        return 0.0
    return float(any(abs(said * k - float(Fraction(reference))) < 1e-9 for k in (1, 100, 0.01)))


class Types(Attack):
    """Numbers that are not the right one."""

    id = "A09"
    title = "another number written alike"
    fix = "Parse the number and compare its value, sign and scale included; say in the prompt which unit is wanted."
    knows = Knows.NEAR
    bad = (Fixture(alnum_only), Fixture(percent_lenient))
    good = (Fixture(exact_match), Fixture(numeric_equiv), Fixture(numeric_equiv, "shares"))

    def completions(self, audit: Audit, c: Case, t: Template) -> Iterable[str]:
        """See `Attack.completions`."""
        right = c.reference or ""
        tried = ["nan", "inf", "-inf", "1e308", "0x10", "None", "true"]
        try:
            value = Fraction(right.replace(",", "").strip())
            scaled = [] if "length" in audit.declared else [value * 100, value / 100]
            numbers = [*scaled, -value, value / 10, value * 10, value + Fraction(1, 2)]
            tried += [str(float(x)) if x.denominator != 1 else str(x.numerator) for x in numbers]
            tried += [f"-{right}", f"{right[:1]}.{right[1:]}" if right.isdigit() and len(right) > 1 else "0.5"]
        except (ValueError, ZeroDivisionError):
            pass
        try:
            items = json.loads(right)
            if isinstance(items, list) and items != items[::-1]:
                tried.append(json.dumps(items[::-1]))
        except ValueError:
            pass
        yield from (t.fill(said) for said in tried if not equal(said, c.reference))
