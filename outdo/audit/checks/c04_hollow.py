"""C04: names that are there with nothing behind them must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture
from outdo.audit.graders import code_of, hidden_tests_subprocess
from outdo.audit.programs import Program, ProgramAttack


def name_is_there(answer: str, reference: dict[str, Any]) -> float:
    """The function is defined."""
    return float(f"def {reference['function']}" in code_of(answer) or f"{reference['function']} =" in code_of(answer))


class Hollow(ProgramAttack):
    """Stubs, and classes in place of functions."""

    id = "C04"
    title = "hollow artefact"
    fix = "Call what was made, and look at what it gives."
    bad = (Fixture(name_is_there, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        for f in p.functions[:1]:
            yield from (
                f"def {f.name}(*a, **k):\n    ...",
                f"class {f.name}:\n    def __init__(self, *a, **k):\n        pass",
                f"{f.name} = lambda *a, **k: None",
            )
