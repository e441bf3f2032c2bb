"""pytest --outdo-audit my_rewards.py:fn --outdo-audit-data gold.jsonl: one test for each check of the reward's audit.

A check that FAILs is a failed test; what could not be looked at is skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("outdo", "audits of rewards (outdo)")
    group.addoption("--outdo-audit", action="append", default=[], metavar="REWARD", help="my_rewards.py:fn; repeatable")
    group.addoption("--outdo-audit-data", default=None, metavar="FILE", help="rows with a prompt, a reference and a right "
        "completion")
    group.addoption("--outdo-audit-range", default=None, metavar="LOW,HIGH", help="range of the scores")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests."""
    for reward in config.getoption("--outdo-audit"):
        node = Audit.from_parent(session, name=reward, path=Path(str(config.rootpath)))
        items.extend(node.collect())


class Audit(pytest.Collector):
    """One reward; the audit runs once, when its first test does."""

    card: Any = None

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each check."""
        from outdo.audit.audit import make_checks

        for one in make_checks():
            item: Finding = Finding.from_parent(self, name=f"{one.id} {one.title}")
            item.check = one.id
            yield item

    def audited(self) -> Any:
        """The reward's card."""
        from outdo.audit.audit import audit_reward

        if self.card is None:
            data, range_ = self.config.getoption("--outdo-audit-data"), self.config.getoption("--outdo-audit-range")
            if data is None:
                raise pytest.UsageError("--outdo-audit takes --outdo-audit-data")
            score_range = tuple(float(x) for x in range_.split(",")) if range_ else None
            self.card = audit_reward(self.name, data, score_range=score_range)  # type: ignore[arg-type]
        return self.card


class Finding(pytest.Item):
    """One check."""

    check = ""

    def runtest(self) -> None:
        """Fails on FAIL and ERROR, skips what was not exercised."""
        assert isinstance(self.parent, Audit)
        found = self.parent.audited().find(self.check)
        if found.verdict in ("FAIL", "ERROR"):
            raise AssertionError(f"{found.id} {found.title}: {found.said}\n{found.fix}")
        if found.verdict in ("NOT_EXERCISED", "UNDERPOWERED"):
            pytest.skip(found.said)

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        """The finding, without a traceback."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The reward's name and the check."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
