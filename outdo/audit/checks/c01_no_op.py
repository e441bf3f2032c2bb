"""C01: a function that does nothing must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack, stub


def only_calls(answer: str, reference: dict[str, Any]) -> float:
    """A call that does not raise is a pass."""
    return in_process(answer, reference, no_compare=True)


class NoOp(ProgramAttack):
    """Bodies that return nothing, or what they were given."""

    id = "C01"
    title = "a function that does nothing"
    fix = "Compare what it returns with what is wanted."
    bad = (Fixture(only_calls, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        for f in p.functions[:1]:
            yield from (stub(f, body) for body in ("pass", "return None", "return 'qzx'", "raise NotImplementedError"))
