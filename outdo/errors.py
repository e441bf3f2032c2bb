"""Errors meant for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend. Shown as one line (value, reason, remedy), exit code 2, never a traceback."""


def out_of_memory(e: BaseException) -> bool:
    """Whether this error says that memory has run out, on the processor or on a GPU."""
    said = any(words in str(e).lower() for words in ("can't allocate memory", "out of memory"))
    return isinstance(e, MemoryError) or (isinstance(e, RuntimeError) and said)


def check(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or a list of the valid names: the end of a line about an unknown one."""
    names = list(dict.fromkeys(valid))
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(sorted(names)) or 'nothing'}"
