"""The audit on itself: every bad reward is caught by its named check, no honest one fails any.

A matrix of checks, and of what each says about its own bad and good rewards and about all honest rewards there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from outdo.audit import fixtures
from outdo.audit.audit import audit_reward, make_checks
from outdo.audit.base import Check, Finding, Fixture, Verdict

CAUGHT = (Verdict.FAIL, Verdict.WARN)


@dataclass
class Row:
    """A check's own fixtures: their verdicts, worst first."""

    check: Check
    bad: list[tuple[str, Finding]] = field(default_factory=list)
    good: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether all bad ones are caught and no good one fails."""
        return all(f.verdict in CAUGHT for _, f in self.bad) and not any(
            f.verdict in (Verdict.FAIL, Verdict.ERROR) for _, f in self.good
        )


def on(one: Check, fixture: Fixture, seed: int = 0) -> Finding:
    """What a check says about a fixture."""
    options: dict[str, Any] = {"timeout_s": 5.0, **fixture.options}
    card = audit_reward(fixture.reward, fixtures.data(fixture.data), checks=[one.id], seed=seed, **options)
    return card.find(one.id)


def matrix(
    checks: Sequence[Check] | None = None, seed: int = 0, progress: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """Every check on its own fixtures."""
    rows = []
    for one in checks or make_checks():
        progress(f"{one.id} {one.title}")
        row = Row(one)
        row.bad = [(f.reward.__name__, on(one, f, seed)) for f in one.bad]
        row.good = [(f.reward.__name__, on(one, f, seed)) for f in one.good]
        rows.append(row)
    return rows


def honest(seed: int = 0, progress: Callable[[str], None] = lambda text: None) -> dict[str, list[Finding]]:
    """Every honest reward through all checks: what fails, which should be nothing."""
    out = {}
    for name, (reward, data, options) in fixtures.GOOD.items():
        progress(name)
        card = audit_reward(reward, fixtures.data(data), seed=seed, **{"timeout_s": 5.0, "budget": 600, **options})
        out[name] = [f for f in card.findings if f.verdict in (Verdict.FAIL, Verdict.ERROR)]
    return out


def table(rows: Sequence[Row]) -> str:
    """The matrix as Markdown."""
    out = ["| check | looks for | bad reward: verdict | honest rewards: verdict |", "|---|---|---|---|"]
    for r in rows:
        bad, good = (", ".join(f"`{name}` {f.verdict}" for name, f in side) for side in (r.bad, r.good))
        out.append(f"| {r.check.id} | {r.check.title} | {bad} | {good} |")
    return "\n".join(out)
