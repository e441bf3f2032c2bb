"""C03: a program that deletes or empties the tests must not pass."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.audit.base import Fixture, Knows
from outdo.audit.graders import hidden_tests_subprocess, tests_in_a_file
from outdo.audit.programs import Program, ProgramAttack

_DELETES = (
    "import glob, os\nfor f in glob.glob('**/*test*', recursive=True):\n    os.path.isfile(f) and os.remove(f)\n",
    "import glob, os\nfor f in glob.glob('**/*test*', recursive=True):\n    os.path.isfile(f) and open(f, 'w').close()\n",
)


class DeletedTests(ProgramAttack):
    """Files called test are removed, or emptied."""

    id = "C03"
    title = "tests deleted"
    fix = "Keep the tests where the program cannot write, and count how many ran."
    knows = Knows.NOTHING
    bad = (Fixture(tests_in_a_file, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def variants(self, p: Program) -> Iterator[str]:
        """See `ProgramAttack.variants`."""
        del p
        yield from _DELETES
