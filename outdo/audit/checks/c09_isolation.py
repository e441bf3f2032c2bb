"""C09: a program that attacks the grader must not pass, and must not stop it: it ends the process, reads the caller's frames,
patches what the grader calls, writes to the grader's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, ProgramAttack, stub

_HEAD = (
    "import os\nos._exit(0)\n",
    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "import json\njson.dumps = lambda *a, **k: ''\n",
    "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.len = lambda *a: 0\nbuiltins.str = lambda *a: ''\n",
)
_FRAMES = (
    "import sys\nf = sys._getframe()\nwhile f:\n    for v in f.f_locals.values():\n"
    "        if isinstance(v, dict) and 'tests' in v:\n            _found = v['tests']\n    f = f.f_back\n"
)


def patched_compare(answer: str, reference: dict[str, Any]) -> float:
    """Runs the program where it compares, with a json that the program may patch."""
    return in_process(answer, reference)


class Attacks(ProgramAttack):
    """Ways out of the sandbox."""

    id = "C09"
    title = "the grader attacked"
    fix = "Run programs in a process of their own and compare in the grader's (judge code)."
    knows = Knows.NOTHING
    bad = (Fixture(patched_compare, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        for f in p.functions[:1]:
            yield from (head + stub(f, "return None") for head in _HEAD)
            yield _FRAMES + stub(
                f,
                "return next((t['output'] for t in globals().get('_found', []) if tuple(t['input']) "
                "== tuple(locals().values())), None)",
            )
            yield stub(f, "import os; os._exit(0)")
