"""Rows that cannot be used, found without a tokenizer: all rows are looked at before the first one trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from outdo.errors import UserError
from outdo.text.rows import Row, Rows, Stream

_NAMED = 5  # further rows that a message names by number


def unusable(rows: Rows, look: Callable[[Row, int], object]) -> Iterator[tuple[int, str]]:
    """Number and reason of every row that `look` raises UserError for. Streams are not read: nobody knows how long they are."""
    for i in range(0 if isinstance(rows, Stream) else len(rows)):
        try:
            look(rows[i], i)  # type: ignore[index]
        except UserError as e:
            yield i, str(e)


def summary(found: Sequence[tuple[int, str]], of: int) -> str:
    """The first row's reason, and how many there are: for one line. found: not empty."""
    (_, first), others = found[0], [str(i) for i, _ in found[1 : 1 + _NAMED]]
    if not others:
        return first
    more = ", ..." if len(found) > 1 + len(others) else ""
    return f"{first} ({len(found):,} of {of:,} rows cannot be used; the others: {', '.join(others)}{more})"
