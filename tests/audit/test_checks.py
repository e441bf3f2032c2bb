"""Every check on rewards that it must catch and on honest ones that it must pass.

Run: .venv/bin/python -m pytest tests/audit/test_checks.py   (about 60 s on one core; fast ones 15 s)
"""

from __future__ import annotations

import pytest

from outdo.audit import fixtures, selftest
from outdo.audit.audit import audit_reward, make_checks
from outdo.audit.base import Verdict
from outdo.errors import UserError

CHECKS = {c.id: c for c in make_checks()}
SLOW = ("R08", "C08", "C09", "C05")  # programs and texts that take their time
BROKEN = (Verdict.FAIL, Verdict.ERROR)


def test_ids_are_those_of_the_specification() -> None:
    wanted = {f"R{i:02}" for i in range(1, 15)} | {f"A{i:02}" for i in range(1, 18)} | {f"C{i:02}" for i in range(1, 10)}
    assert set(CHECKS) == wanted
    assert all(c.bad and c.good and c.title and c.fix.endswith(".") for c in CHECKS.values())


@pytest.mark.parametrize("id_", [pytest.param(i, marks=pytest.mark.slow if i in SLOW else ()) for i in CHECKS])
def test_bad_rewards_are_caught_and_honest_ones_pass(id_: str) -> None:
    one = CHECKS[id_]
    for fixture in one.bad:
        found = selftest.on(one, fixture)
        assert found.verdict in selftest.CAUGHT, f"{fixture.reward.__name__}: {found.said}"
        if found.verdict == Verdict.FAIL and found.grounds == "counterexample":
            assert found.example is not None and found.example["completion"] is not None
    for fixture in one.good:
        found = selftest.on(one, fixture)
        assert found.verdict not in BROKEN, f"{fixture.reward.__name__}: {found.said}"


@pytest.mark.slow
@pytest.mark.parametrize("name", fixtures.GOOD)
def test_honest_rewards_pass_everything(name: str) -> None:
    reward, data, options = fixtures.GOOD[name]
    card = audit_reward(reward, fixtures.data(data), **{"budget": 600, **options})
    assert not card.failures, [(f.id, f.said) for f in card.failures]
    assert not [f for f in card.findings if f.verdict == Verdict.ERROR]
    assert card.verdict == "pass" and card.exit_code() == 0


def test_a_reward_that_accepts_nothing_is_no_pass() -> None:
    """The positive control fails, so attacks mean nothing."""
    card = audit_reward(lambda answer, reference: 0.0, fixtures.data("sums"), checks=["A", "R01", "R14"])
    assert card.exercised and card.find("A03").verdict == Verdict.NOT_EXERCISED
    assert card.find("R14").verdict == Verdict.FAIL and card.exit_code() == 1
    only = audit_reward(lambda answer, reference: 0.0, fixtures.data("sums"), checks=["A03"])
    assert only.verdict == "inconclusive" and only.exit_code() == 3


def test_the_same_seed_gives_the_same_card() -> None:
    one, two = (audit_reward(fixtures.graded_distance, fixtures.data("sums"), checks=["A"], budget=300, seed=3) for _ in range(2))
    assert one.record() == two.record()


def test_a_check_of_ones_own(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "mine.py"
    file.write_text(OWN, encoding="utf-8")
    card = audit_reward(
        lambda answer, reference: float(reference in answer or "sorry" in answer),
        fixtures.data("sums"),
        checks=[f"{file}:Apology"],
    )
    assert card.find("X01").verdict == Verdict.FAIL and "sorry" in str(card.find("X01").example)
    with pytest.raises(UserError, match="no check 'A99'"):
        make_checks(["A99"])


OWN = '''
from outdo.audit.attack import Attack
from outdo.audit.base import Knows

class Apology(Attack):
    """An apology is no answer."""

    id = "X01"
    title = "apology"
    fix = "Score the final answer alone."
    knows = Knows.NOTHING

    def completions(self, audit, c, t):
        yield "I am sorry."
        yield "So sorry."
        yield t.fill("I am sorry.")
'''
