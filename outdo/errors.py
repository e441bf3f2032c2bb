"""Errors meant for people."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend. Shown as one line (value, reason, remedy), exit code 2, never a traceback."""


def check(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)
