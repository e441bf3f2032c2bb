"""Verdicts on a run that was really made.

Run: .venv/bin/python -m pytest tests/compare/test_verdicts.py   (about 3 s on one core)
"""

from __future__ import annotations

from typing import Any

from processes import reference

from outdo import recipe as recipes
from outdo.compare.claims import unseen_opponents
from outdo.compare.evidence import Evidence


def strangers(*opponents: str) -> list[str] | None:
    """Who is called a stranger to a policy that was reinforced against these."""
    folder = reference()
    recipe = recipes.load(folder / "recipe.toml")
    rl: Any = recipe.stage["rl"]
    rl = rl.model_copy(update={"opponents": opponents, "judge": None})  # the tiny recipe's own reward makes it a control
    changed = recipe.model_copy(update={"stage": {**recipe.stage, "rl": rl}})
    said = list(unseen_opponents.claim(Evidence([folder], changed)))
    return list(said[0]["evidence"]["differences"]) if said else None


def test_who_was_trained_against_is_no_stranger() -> None:
    everybody = Evidence([reference()], recipes.load(reference() / "recipe.toml")).opponents
    assert len(everybody) > 2
    assert strangers() == everybody[1:], "without a word of it training meets the main opponent"
    assert strangers(*everybody[:2]) == everybody[2:]
    assert strangers(everybody[1]) == [everybody[0], *everybody[2:]]
    assert strangers(*everybody) is None
