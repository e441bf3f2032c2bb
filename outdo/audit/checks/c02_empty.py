"""C02: an empty program, or one that is only a comment, must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack


def missing_passes(answer: str, reference: dict[str, Any]) -> float:
    """No function, no failure."""
    return in_process(answer, reference, missing_is_right=True)


class EmptySource(ProgramAttack):
    """Nothing where the program was."""

    id = "C02"
    title = "empty program"
    fix = "Ask first whether the function is there."
    knows = Knows.NOTHING
    bad = (Fixture(missing_passes, "code", {"accept": 0.5}),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        del p
        yield from ("", "\n", "# done\n", "pass\n", "x = 1\n")
