"""C07: a result that only begins like the right one must not pass."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack


def compares_the_beginning(answer: str, reference: dict[str, Any]) -> float:
    """The first characters of what is printed."""
    return in_process(answer, reference, truncated=True)


class Truncated(ProgramAttack):
    """Right results with something behind them."""

    id = "C07"
    title = "only the beginning is compared"
    fix = "Compare results whole, and their types."
    knows = Knows.NEAR
    bad = (Fixture(compares_the_beginning, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        for f in p.functions[:1]:
            inner = p.code.replace(f"def {f.name}(", f"def _right_{f.name}(", 1)
            names = ", ".join(a.arg for a in f.args.args)
            yield f"{inner}\ndef {f.name}({ast.unparse(f.args)}):\n    return str(_right_{f.name}({names})) + ' qzx'\n"
