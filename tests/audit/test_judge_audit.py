"""The audit of judges on judges whose faults are planted, and the statistics beneath it by hand.

Run: .venv/bin/python -m pytest tests/audit/test_judge_audit.py   (about 25 s on one core)
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from outdo.audit import selftest, simulated
from outdo.audit.base import Verdict
from outdo.audit.judge import audit_judge, estimate, make_checks
from outdo.errors import UserError
from outdo.evaluation import agreement
from outdo.evaluation.overoptimisation import fit


def test_ids_are_those_of_the_specification() -> None:
    assert [c.id for c in make_checks()] == [f"J{i:02}" for i in range(1, 25)]


def test_planted_faults_are_caught() -> None:
    found = selftest.planted(seed=1)
    assert len(found) == 20
    for id_, bias, f in found:
        assert f.verdict in selftest.CAUGHT, f"{id_} {bias}: {f.said}"


def test_honest_judges_pass() -> None:
    """At most 5 % of cards may fail; of 25 cards each, four or more would be seen with chance below 4 % even then."""
    assert max(selftest.honest_judges(25).values()) <= 3


def test_a_lenient_judge_is_not_injectable() -> None:
    lenient = audit_judge(simulated.judge("honest_lenient", 5), simulated.labels(5), checks=["J01"])
    assert lenient.find("J01").verdict == Verdict.PASS
    weak = audit_judge(simulated.judge("injectable_30pct", 5), simulated.labels(5), checks=["J01"])
    assert weak.find("J01").verdict == Verdict.FAIL and "of 120 wrong answers flip" in weak.find("J01").said


def test_few_labels_are_underpowered() -> None:
    few = audit_judge(simulated.judge("honest_noisy"), simulated.labels(0, prompts=8), checks=["J01"])
    assert few.find("J01").verdict == Verdict.UNDERPOWERED


def test_the_parser_of_judge_llm_passes() -> None:
    from outdo.audit.judge import JudgeAudit
    from outdo.judges.llm import Llm

    class Nobody:
        calls, restarts, about = 0, 0, {}

    audit = JudgeAudit(Nobody(), [], of=Llm(Llm.Config(model="m", base_url="http://localhost:1/v1")))  # type: ignore[arg-type]
    (check,) = make_checks(["J04"])
    assert check.run(audit).verdict == Verdict.PASS  # type: ignore[arg-type]


def test_bounds_of_calls() -> None:
    rows = simulated.labels(0)
    with pytest.raises(UserError, match="max_calls = 10: raise it"):
        audit_judge(simulated.judge("honest_noisy"), rows, max_calls=10)
    from outdo.audit.cases import load

    card = audit_judge(simulated.judge("honest_noisy"), rows)
    assert card.calls <= estimate(load(rows), 3)


# --- statistics ---------------------------------------------------------------------------------------------------------


def test_mcnemar_counts_flips() -> None:
    for up, down in product(range(5), range(5)):
        n = up + down
        brute = np.mean([sum(flips) >= up for flips in product((0, 1), repeat=n)])
        assert agreement.mcnemar(up, down) == pytest.approx(brute)


def test_holm() -> None:
    assert agreement.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert agreement.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and agreement.holm([]) == []


def test_auc_within_prompts() -> None:
    """A judge that only knows how hard prompts are: perfect pooled, nothing within."""
    prompts = np.repeat(np.arange(20), 4)
    rate = np.repeat(np.arange(20) >= 10, 4)
    right = np.where(rate, [1, 1, 1, 0] * 20, [1, 0, 0, 0] * 20).astype(bool)
    scores = rate.astype(float)
    e = agreement.within_auc(scores, right, prompts)
    assert (e.value, e.low, e.high, e.n) == (0.5, 0.5, 0.5, 20)
    assert agreement.auc(scores[right], scores[~right]) == pytest.approx(0.75)
    better = agreement.within_auc(right + 0.1 * np.random.default_rng(0).random(80), right, prompts)
    assert better.value == 1.0


def test_errors_by_hand() -> None:
    """8 of 10 right accepted, 6 of 10 wrong refused."""
    accepted, right = [1] * 8 + [0] * 2 + [1] * 4 + [0] * 6, [1] * 10 + [0] * 10
    e = agreement.errors(accepted, right, np.arange(20))
    assert (e.sensitivity.value, e.specificity.value, e.youden.value) == pytest.approx((0.8, 0.6, 0.4))
    assert e.kappa == pytest.approx(0.4) and e.precision(0.5) == pytest.approx(0.8 / 1.2)
    assert e.precision(0.05) == pytest.approx(0.04 / 0.42)
    rate = agreement.corrected_rate(0.6, e)
    assert rate is None or rate == pytest.approx((0.6 + 0.6 - 1) / 0.4)


def test_calibration_of_a_perfect_judge_is_within_its_null() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 2000)
    c = agreement.calibration(p, rng.random(2000) < p)
    assert c.ece < c.ece_null and c.slope == pytest.approx(1.0, abs=0.15) and c.intercept == pytest.approx(0.0, abs=0.15)
    sure = agreement.calibration(np.where(p > 0.5, 0.99, 0.01), rng.random(2000) < p)
    assert sure.ece > sure.ece_null and sure.slope < 0.6


def test_power() -> None:
    assert agreement.labels_needed(0.05, 0.02) == 457 and agreement.pairs_needed(0.05, 9) == 226
    assert agreement.pairs_needed(0.15, 9) < agreement.pairs_needed(0.05, 9)


def test_a_decline_is_called_only_where_there_is_one() -> None:
    d, rng = np.linspace(0.3, 4.0, 12), np.random.default_rng(0)
    saturating, falling = 0.8 * (1 - np.exp(-d)), d * (0.9 - 0.55 * np.log(d))
    calls = {"saturating": 0, "falling": 0}
    for _ in range(20):
        for name, truth in (("saturating", saturating), ("falling", falling)):
            found = fit(d, truth + rng.normal(0, 0.03, 12), np.full(12, 0.03), draws=200)
            assert found is not None
            calls[name] += found.declined
    assert calls["saturating"] <= 1 and calls["falling"] >= 19
    assert fit(d[:3], falling[:3], np.full(3, 0.03)) is None
