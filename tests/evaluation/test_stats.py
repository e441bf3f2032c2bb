"""Intervals against scipy and by simulation; the judging test on rigged models; what a measurement reports.

Run: .venv/bin/python -m pytest tests/test_stats.py   (about 8 s on one core)
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from toys import SMALL, decoder

from outdo.evaluation import stats
from outdo.evaluation.judging import recognises_wins
from outdo.evaluation.measure import measure
from outdo.evaluation.pairs import agreement
from outdo.evaluation.stats import Difference, hierarchical_interval, mean_interval, paired_difference, pass_at_k, wilson
from outdo.types import Finish, Prompt, Score, Trajectory, Usage

# --- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_wilson_is_scipys(n: int) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        want = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((want.low, want.high), abs=1e-12)
        assert 0.0 <= wilson(k, n)[0] < k / n + 1e-12 and k / n - 1e-12 < wilson(k, n)[1] <= 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_mean_interval() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0, np.nan])
    mean, low, high, n = mean_interval(values)
    assert (mean, n) == (3.0, 3) and high - mean == mean - low == pytest.approx(1.959964 * 2.0 / 3**0.5)
    assert mean_interval([])[3] == 0 and np.isnan(mean_interval([np.nan])[0])
    assert mean_interval([4.0]) == (4.0, -np.inf, np.inf, 1), "one value says nothing about spread"


@pytest.mark.parametrize("seeds", [1, 3])
def test_identical_players_are_not_certainly_the_same(seeds: int) -> None:
    """A bootstrap of nothing but zeros would say [0, 0] of three questions."""
    a = (np.random.default_rng(0).random((seeds, 50)) < 0.4).astype(float)
    missed = binomtest(0, 50).proportion_ci(method="exact").high
    assert paired_difference(a, a) == Difference(0.0, (pytest.approx(-missed), pytest.approx(missed)), 50, seeds)
    assert paired_difference(a, a).verdict == "not distinguishable"
    assert paired_difference([0.0] * 3, [0.0] * 3).ci95[1] == pytest.approx(0.708, abs=1e-3)
    assert paired_difference([9.0] * 3, [9.0] * 3).ci95[1] > 5.0, "on the scores' own scale"


@pytest.mark.parametrize(("n", "verdict"), [(1, "not distinguishable"), (5, "not distinguishable"), (6, "higher"),
                                            (50, "higher")])  # fmt: skip
def test_wins_without_exception_are_told_apart_as_by_the_sign_test(n: int, verdict: str) -> None:
    d = paired_difference([1.0] * n, [0.0] * n)
    assert d.value == d.ci95[1] == 1.0 and d.verdict == verdict
    assert (binomtest(n, n).pvalue < 0.05) == (verdict == "higher")
    assert paired_difference([0.0] * n, [1.0] * n).ci95 == pytest.approx((-1.0, -d.ci95[0]))


def test_intervals_of_equal_numbers() -> None:
    assert wilson(0, 7)[0] == 0.0 and wilson(7, 7)[1] == 1.0, "to the bit"
    assert hierarchical_interval([0.5] * 7) == wilson(3.5, 7)


def test_ties_of_pairs() -> None:
    """Scores that are all the same are right in half of the pairs, and a coin's Brier score is a quarter."""
    a = agreement([1.0] * 7, [1.0] * 7, [str(i) for i in range(7)])
    assert a["value"] == a["auc"] == 0.5 and a["brier"] == 0.25 and a["auc_ci95"][0] < 0.5 < a["auc_ci95"][1]
    good = agreement([5.0, 4.0], [0.0, 1.0], ["a", "b"])
    assert good["value"] == 1.0 and good["brier"] == pytest.approx(((1 + np.exp(5)) ** -2 + (1 + np.exp(3)) ** -2) / 2)
    assert good["auc_ci95"][0] < 0.5, "two prompts"


def test_verdicts_and_signs() -> None:
    rng = np.random.default_rng(0)
    good, bad = (rng.random(400) < 0.8).astype(float), (rng.random(400) < 0.3).astype(float)
    up, down = paired_difference(good, bad), paired_difference(bad, good)
    assert up.verdict == "higher" and down.verdict == "lower"
    assert up.value == -down.value == pytest.approx(good.mean() - bad.mean())
    assert up.ci95[0] < up.value < up.ci95[1]
    assert (up.n, up.seeds) == (400, 1)
    assert paired_difference(good, bad) == up, "the bootstrap has its own seed"


def test_pairing_removes_the_items_difficulty() -> None:
    """The same items for both: a constant advantage is certain although the items differ wildly."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=200)
    tight = paired_difference(items + 0.1, items)
    loose = paired_difference(items + 0.1, rng.permutation(items))
    assert tight.ci95 == pytest.approx((0.1, 0.1)) and loose.verdict == "not distinguishable"


def test_one_seed_broadcasts_against_many() -> None:
    rng = np.random.default_rng(0)
    many, one = rng.random((3, 80)), rng.random(80)
    assert paired_difference(many, one) == paired_difference(many, np.tile(one, (3, 1)))
    assert (paired_difference(many, one).n, paired_difference(many, one).seeds) == (80, 3)


def coverage(seeds: int, items: int, seed_spread: float, trials: int = 250) -> float:
    """How often the 95 % interval holds the true difference. Per game: item effect, seed effect, luck."""
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(trials):
        d = 0.1 + 0.25 * rng.normal(size=items) + seed_spread * rng.normal(size=(seeds, 1))
        base = rng.random(items)
        difference = paired_difference(base + d + 0.5 * rng.normal(size=(seeds, items)), base, draws=300, seed=trial)
        hits += difference.ci95[0] <= 0.1 <= difference.ci95[1]
    return hits / trials


@pytest.mark.slow
def test_coverage_with_one_seed() -> None:
    """One training run: 95 % over the choice of prompts and luck. (It says nothing about other training seeds.)"""
    assert 0.91 <= coverage(1, 150, 0.0) <= 0.98


@pytest.mark.slow
def test_coverage_with_three_seeds_alike() -> None:
    """Luck is counted with the items and again with the seeds: a little too wide, never too narrow."""
    assert 0.94 <= coverage(3, 150, 0.0) <= 1.0


@pytest.mark.slow
def test_coverage_with_three_seeds_that_differ() -> None:
    """Known limit of a bootstrap over three seeds: where runs differ more than prompts do, 95 % says about 80 %."""
    assert 0.70 <= coverage(3, 150, 0.3) <= 0.90


def test_hierarchical_interval() -> None:
    ones = np.array([1.0, 0.0, 1.0, 1.0])
    assert hierarchical_interval(ones) == wilson(3, 4)
    graded = np.random.default_rng(0).random((3, 100))
    low, high = hierarchical_interval(graded)
    assert low < graded.mean() < high and high - low < 0.2


# --- judging --------------------------------------------------------------------------------------------------------


class Rigged:
    """A model whose belief that token 1 ("won") comes next is whatever `belief` says about the tokens so far."""

    def __init__(self, belief: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.belief = belief

    def pack(self, dtype: torch.dtype) -> None:
        del dtype

    def hidden(self, packed: None, tokens_BT: torch.Tensor, wanted_N: torch.Tensor) -> torch.Tensor:
        assert wanted_N.tolist() == [(b + 1) * tokens_BT.shape[1] - 1 for b in range(len(tokens_BT))]
        return self.belief(tokens_BT.float())[:, None]

    def logits(self, packed: None, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(hidden), hidden, torch.zeros_like(hidden)], -1)


def judged(belief: Callable[[torch.Tensor], torch.Tensor], pairs: list[Any]) -> dict[str, Any]:
    return recognises_wins(Rigged(belief), torch.float32, pairs, win_id=1)  # type: ignore[arg-type]


# The first of each pair ends in 2, the second in 0; lengths 3, 5, 3, 7.
PAIRS = [(np.array([4] * (n - 1) + [2]), np.array([4] * (n - 1) + [0])) for n in (3, 5, 3, 7)]


@pytest.mark.parametrize(
    ("belief", "want"),
    [
        (lambda t: t[:, -1], 1.0),
        (lambda t: -t[:, -1], 0.0),
        (lambda t: 0 * t[:, -1], 0.5),  # a constant belief guesses
        (lambda t: t[:, -1] * (t.shape[1] == 3), 0.75),  # sees it in short games only, guesses in long ones
        (lambda t: t[:, -1] * (1 if t.shape[1] < 7 else -1), 0.75),  # right thrice, wrong once
    ],
)
def test_judging_of_rigged_models(belief: Callable[[torch.Tensor], torch.Tensor], want: float) -> None:
    for pairs in (PAIRS, PAIRS[::-1]):
        got = judged(belief, pairs)
        assert got["value"] == want and got["n"] == 4 and got["ci95"] == list(wilson(want * 4, 4))
    swapped = judged(belief, [(b, a) for a, b in PAIRS])
    assert swapped["value"] == 1.0 - want


def test_judging_without_pairs() -> None:
    assert judged(lambda t: t[:, -1], []) == {"value": None, "ci95": [0.0, 1.0], "n": 0}


def test_judging_equals_one_by_one() -> None:
    """A real decoder: batches by length change nothing."""
    model, rng = decoder(), np.random.default_rng(0)
    pairs = [(rng.integers(0, 29, n), rng.integers(0, 29, n)) for n in rng.integers(2, 9, 60)]
    right = 0
    with torch.no_grad():
        packed = model.pack(torch.float32)
        for pair in pairs:
            hidden = [model.hidden(packed, torch.from_numpy(side)[None])[0, -1] for side in pair]
            beliefs = [torch.log_softmax(model.logits(packed, h), -1)[5] for h in hidden]
            right += bool(beliefs[0] > beliefs[1])
    assert recognises_wins(model, torch.float32, pairs, win_id=5)["value"] == right / 60
    assert 10 < right < 50 and SMALL.vocab_size == 29


# --- measurements ---------------------------------------------------------------------------------------------------


class Graded:
    """A task whose metrics are given."""

    headline = "win"

    def __init__(self, **columns: Sequence[float]) -> None:
        self.columns = {k: np.array(v, np.float64) for k, v in columns.items()}

    def metrics(self, trajectories: Sequence[Trajectory]) -> Mapping[str, np.ndarray]:
        assert len(trajectories) == len(self.columns["win"])
        return self.columns


def played(prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Usage]:
    zeros = np.zeros(2, np.float32)
    return [Trajectory(p.id, 0, p.token_ids, zeros > 0, zeros, 0, Finish.DONE) for p in prompts], Usage(decode_tokens=9)


def test_measurement() -> None:
    prompts = [Prompt(str(i), np.array([0, i])) for i in range(4)]
    task = Graded(win=[1, 0, 1, np.nan], excess=[2, np.nan, 4, np.nan], never=[np.nan] * 4)
    scorers = {"half": lambda ts: [Score(0.5)] * len(ts), "silent": lambda ts: [Score(None, "no idea")] * len(ts),
               "some": lambda ts: [Score(None if i else 0.25) for i in range(len(ts))]}  # fmt: skip
    m = measure(task, played, prompts, scorers)
    assert (m.value, m.n, m.ci95) == (pytest.approx(2 / 3), 3, wilson(2, 3)), "an item without a result is left out"
    assert m.extra == {"excess": 3.0, "never": None, "half": 0.5, "silent": None, "some": 0.25}
    assert m.usage == Usage(decode_tokens=9, judge_calls=12)
    record = json.loads(json.dumps(m.record()))
    assert record["items"] == [1.0, 0.0, 1.0, None] and record["n"] == 3


def test_copies_of_a_prompt_count_once() -> None:
    """Ten copies of each prompt give the interval of the prompts, not that of ten times as many."""
    once = [Prompt(str(i), np.array([0, i])) for i in range(10)]
    copies = [Prompt(f"{p.id}/{k}", p.token_ids) for k in range(10) for p in once]
    m, alone = measure(Graded(win=[0.0] * 100), played, copies, {}), measure(Graded(win=[0.0] * 10), played, once, {})
    assert (m.n, m.rows, m.ci95) == (10, 100, alone.ci95) and alone.ci95[1] == pytest.approx(0.278, abs=1e-3)
    uneven = measure(Graded(win=[1, 1, 1, 0]), played, [once[0]] * 3 + [once[1]], {})
    assert (uneven.value, uneven.n, uneven.items.tolist()) == (0.5, 2, [1.0, 0.0]), "a prompt counts with its mean"


def test_graded_scores_have_one_interval_everywhere() -> None:
    prompts = [Prompt(str(i), np.array([0, i])) for i in range(3)]
    m = measure(Graded(win=[0.2, 0.4, 0.9]), played, prompts, {})
    assert (m.value, *m.ci95) == pytest.approx((0.5, *hierarchical_interval([0.2, 0.4, 0.9]))) and m.n == 3 and not m.share


def test_pass_at_k_is_the_share_of_all_choices_of_k_answers_that_hold_a_right_one() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((20, 7)) < 0.3).astype(float)
    scores[0], scores[1] = 0, 1
    for k in (1, 2, 4, 7):
        want = [np.mean([max(c) for c in itertools.combinations(row, k)]) for row in scores]
        assert pass_at_k(scores, k) == pytest.approx(want, abs=1e-12)
    scores[2, :5] = np.nan
    assert np.isnan(pass_at_k(scores, 4)[2]) and not np.isnan(pass_at_k(scores, 2)[2]), "two answers say nothing about four"
    assert pass_at_k([[0.5, 0.9, 1.0]], 1) == pytest.approx([1 / 3]), "solved means full marks"


def test_measurement_of_several_answers_counts_prompts() -> None:
    prompts = [Prompt(str(i), np.array([0, i])) for i in range(3)]
    answers = [1, 0, 0, 0, 1, 1, np.nan, 1, 0, 0, 0, 0]

    def four(prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Usage]:
        return played([p for p in prompts for _ in range(4)])

    m = measure(Graded(win=answers), four, prompts, {})
    assert m.items == pytest.approx([0.25, 1.0, 0.0]) and m.n == 3 and len(m.answers) == 12
    expected = (5 / 12, *hierarchical_interval([0.25, 1.0, 0.0]))
    assert m.share and (m.value, *m.ci95) == pytest.approx(expected), "answers to one prompt are no new evidence"
    assert m.extra == {"pass@1": pytest.approx((0.25 + 1 + 0) / 3), "pass@4": pytest.approx(0.5)}


def test_best_of_k_is_the_mean_over_all_choices() -> None:
    rng = np.random.default_rng(0)
    judged, values = rng.integers(0, 3, (5, 6)).astype(float), rng.random((5, 6))
    judged[0, 2] = np.nan
    for k in (1, 2, 4, 6):
        found = stats.best_of_k(judged, values, k)
        for p in range(5):
            means = []
            for some in itertools.combinations(range(6), k):
                scored = [-np.inf if np.isnan(judged[p, i]) else judged[p, i] for i in some]
                best = [values[p, i] for i, s in zip(some, scored, strict=True) if s == max(scored)]
                means.append(np.mean(best))
            # Equal scores share one mean over all answers of that score, not over those drawn: the same on average.
            assert found[p] == pytest.approx(np.mean(means))


def test_the_best_of_k_by_a_perfect_judge_is_pass_at_k() -> None:
    right = (np.random.default_rng(1).random((20, 16)) < 0.2).astype(float)
    assert stats.best_of_k(right, right, 4) == pytest.approx(stats.pass_at_k(right, 4))


def test_a_majority_of_answers() -> None:
    said = np.array([["4", "4", "5"], ["1", "2", "3"], ["7", "8", "8"]])
    right = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert stats.majority(said, right) == pytest.approx([1.0, 1 / 3, 0.0])
