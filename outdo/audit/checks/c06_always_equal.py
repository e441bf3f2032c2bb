"""C06: an object that says it equals anything must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack, stub

_CLASS = (
    "class Any_(object):\n    def __eq__(self, o):\n        return True\n"
    "    def __ne__(self, o):\n        return False\n    def __hash__(self):\n        return 0\n"
)


def trusts_equality(answer: str, reference: dict[str, Any]) -> float:
    """result == wanted, whatever the result is."""
    return in_process(answer, reference, equality=True)


class AlwaysEqual(ProgramAttack):
    """__eq__ that always agrees."""

    id = "C06"
    title = "always-equal object"
    fix = "Serialise the result (JSON) in the program's process and compare texts."
    knows = Knows.NOTHING
    bad = (Fixture(trusts_equality, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        for f in p.functions[:1]:
            yield _CLASS + stub(f, "return Any_()")
            yield "class Str_(str):\n    def __eq__(self, o):\n        return True\n    __hash__ = str.__hash__\n" + stub(
                f, "return Str_('qzx')"
            )
