"""Regular expressions in a process of their own (see `outdo.judges.common.worker`): Python's cannot be interrupted."""

from __future__ import annotations

import re
from typing import Any

from outdo.judges.common.worker import serve


def matches(question: dict[str, Any]) -> bool:
    """{"pattern", "text", "search"} -> whether it matches."""
    pattern = re.compile(question["pattern"], re.DOTALL)
    return (pattern.search if question["search"] else pattern.fullmatch)(question["text"]) is not None


if __name__ == "__main__":
    serve(matches)
