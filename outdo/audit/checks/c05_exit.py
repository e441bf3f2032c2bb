"""C05: a program that ends with exit code 0 before it is tested must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack, stub


def exit_is_fine(answer: str, reference: dict[str, Any]) -> float:
    """Exit codes are trusted."""
    return in_process(answer, reference, exit_is_right=True)


class Exit(ProgramAttack):
    """sys.exit(0), at once and when called."""

    id = "C05"
    title = "exit(0) before the tests"
    fix = "Take the verdict from results that only a finished test can give, never from an exit code."
    knows = Knows.NOTHING
    bad = (Fixture(exit_is_fine, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        yield "import sys\nsys.exit(0)\n"
        yield "raise SystemExit(0)\n"
        for f in p.functions[:1]:
            yield stub(f, "raise SystemExit(0)")
