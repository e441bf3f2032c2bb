"""Every algorithm has a page in docs/algorithms/ that says what the code does.

Run: .venv/bin/python -m pytest tests/algorithms/test_pages.py   (about 2 s on one core)
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from outdo import plugins
from outdo.algorithms.base import Algorithm

NAMES = plugins.names("algorithms")


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_a_page(name: str) -> None:
    """With its formulas as the code has them, each of its own options with its default, and a result or that there is none."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
    found = plugins.find("algorithms", name, Algorithm)  # type: ignore[type-abstract]
    doc = inspect.getdoc(sys.modules[found.__module__]) or ""
    formulas = [line.strip() for line in doc.splitlines() if re.match(r"\s*[A-Za-z_]+\s+=\s", line) or line.startswith("    ")]
    assert formulas or name == "simpo", doc
    assert all(line in page for line in formulas), "the page's formulas are the code's"
    own = found.__dict__.get("Config")
    for option in own.__annotations__ if own else ():
        default = own.model_fields[option].default  # type: ignore[union-attr]
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"| `{option}` | `{shown}` |" in page
    assert "## Measured" in page and f"algorithms/{name}.md" in (root / "docs" / "algorithms.md").read_text(encoding="utf-8")
