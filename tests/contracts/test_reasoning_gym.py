"""Every dataset of reasoning-gym as a task, and its strict judge: gold scores full, nothing cheap does, splits are disjoint.

Run: .venv/bin/python -m pytest tests/contracts/test_reasoning_gym.py   (about 15 s on one core; -m slow: all 106, 3 minutes)
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import real

from outdo.errors import UserError
from outdo.judges.reasoning_gym import ReasoningGymJudge, extract, strict
from outdo.tasks.reasoning_gym import _EXAMPLES, _WITHOUT, ReasoningGym
from outdo.types import Trajectory

factory = pytest.importorskip("reasoning_gym.factory")
NAMES = sorted(factory.DATASETS)
FAST = ["chain_sum", "countdown", "gsm_symbolic", "word_sorting", "rubiks_cube", "arc_agi", "prime_factorization", "boxnet",
        "game_of_life_halting", "composite", "graph_color", "propositional_logic"]  # fmt: skip
# composite mixes others and cannot be made without saying which
OPTIONS: dict[str, dict[str, Any]] = {
    "composite": {"datasets": [{"name": n, "weight": 1, "config": {}} for n in ("chain_sum", "leg_counting")]},
}
# The library's own scorer gives full marks to a text that merely contains the answer: why `strict` exists.
FOOLED = {"game_of_life_halting", "gsm_symbolic", "kakurasu", "knights_knaves", "quantum_lock", "sokoban", "survo"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some scorers warn about the answers that they are shown
        yield


def make(name: str, **options: Any) -> ReasoningGym:
    task = ReasoningGym(ReasoningGym.Config(dataset=name, options=OPTIONS.get(name, {}), max_prompt_tokens=8000,
                                            max_new_tokens=8000, **options))
    task.bind(real.tokenizer())
    return task


def saying(t: Trajectory, words: str) -> Trajectory:
    return replace(t, info={**t.info, "completion": [{"role": "assistant", "content": words}]})


def check(name: str) -> None:
    task, judge, lax = make(name), ReasoningGymJudge(), ReasoningGymJudge(ReasoningGymJudge.Config(scorer="partial"))
    prompts = task.prompts("train", 3, seed=0)
    assert [p.row for p in make(name).prompts("train", 3, seed=0)] == [p.row for p in prompts]
    assert all(json.loads(json.dumps(p.row)) == p.row and "metadata" not in p.row for p in prompts)
    measured = {p.row["question"] for s in ("validation", "heldout") for p in task.prompts(s, 2, seed=0)}
    assert not measured & {p.row["question"] for p in prompts}
    if name in _WITHOUT:
        assert task.players == () and {p.row["answer"] for p in prompts} == {None}
        blank = np.zeros(2, np.int64), np.array([False, True]), np.zeros(2, np.float32)
        games = [Trajectory(p.id, 0, *blank, 0, "stop", p.row) for p in prompts]  # type: ignore[arg-type]
    else:
        games = task.play("gold", prompts, np.arange(3))
        assert [s.value for s in judge.score(games)] == [1.0] * 3, "gold"
        assert all(s.value is not None and s.value > 0.99 for s in lax.score(games)) or name == "game_of_life_halting"
    for words in ("", "<answer></answer>", "<answer> </answer>", '<answer>][{"<bad\u0000</answer>'):
        scores = judge.score([saying(t, words) for t in games])
        assert [(s.value, s.answered) for s in scores] == [(0.0, "</answer>" in words)] * 3, words
    echo = [saying(t, f"<answer>{t.info['question']}</answer>") for t in games]
    assert [s.value for s in judge.score(echo)] == [0.0] * 3, "echo"
    if name not in _WITHOUT:
        contains = [saying(t, f"<answer>x {t.info['answer']}</answer>") for t in games]
        assert [s.value for s in judge.score(contains)] == [0.0] * 3, "contains"
        assert (lax.score(contains)[0].value == 1.0) == (name in FOOLED)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_contract(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in FAST])
def test_contract_of_the_others(name: str) -> None:
    check(name)


def test_the_lists_are_of_this_library() -> None:
    assert len(NAMES) == 106 and set(FAST) | FOOLED | set(_EXAMPLES) | _WITHOUT <= set(NAMES)


def test_splits_share_no_question() -> None:
    """Whatever the seeds, even where there are few questions; harder ones keep away from training, too."""
    task = make("chain_sum", harder={"min_terms": 5, "max_terms": 6})
    few = ReasoningGym(ReasoningGym.Config(options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}))
    few.bind(real.tokenizer())
    for t, n in ((task, 200), (few, 15)):
        seen = {s: {p.row["question"] for seed in (0, 1) for p in t.prompts(s, n, seed)} for s in t.splits}
        assert all(len(q) >= n for q in seen.values()), "measuring asks nothing twice"
        assert all(not seen[a] & seen[b] for a in seen for b in seen if a < b)
    terms = [p.row["question"].count(" + ") + p.row["question"].count(" - ") for p in task.prompts("harder", 20, 0)]
    assert min(terms) >= 4
    with pytest.raises(UserError, match="no such split"):
        few.prompts("harder", 1, 0)
    with pytest.raises(UserError, match=r"found \d\d different questions and no other.*set evaluation.prompts"):
        few.prompts("heldout", 200, 0)
    want = [p.row for p in task.prompts("heldout", 30, 5)]
    assert [p.row for start in (20, 0, 10) for p in task.prompts("heldout", 10, 5, start)] == [*want[20:], *want[:20]]


def test_strict_by_hand() -> None:
    assert strict("chain_sum", " 42 ", "42", 1.0) and strict("countdown", "2*3", "3*2", 1.0) and strict("boxnet", "[]", None, 1.0)
    assert not strict("chain_sum", "42 43", "42", 1.0) and not strict("chain_sum", "41", "42", 0.99)
    assert extract("<answer>1</answer> or <answer> 2\n</answer>", "answer") == "2" and extract(" 2 ", "") == "2"
    assert extract("2", "answer") is None


def test_what_cannot_be_made_again_has_no_score() -> None:
    task = make("chain_sum")
    (game,) = task.play("gold", task.prompts("train", 1, 0), np.arange(1))
    (score,) = ReasoningGymJudge().score([replace(game, info={**game.info, "question": "another"})])
    assert score.value is None and "cannot be made again" in score.reason


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dataset": "chain_sun"}, "reasoning_gym has no dataset 'chain_sun'; did you mean 'chain_sum'"),
        ({"options": {"min_term": 2}}, "'chain_sum' has no option 'min_term'; did you mean 'min_terms'"),
        ({"options": {"seed": 2}}, "has no option 'seed'"),
        ({"options": {"min_terms": 9, "max_terms": 2}}, "refuses its options"),
        ({"dataset": "composite"}, "refuses its options"),
    ],
)
def test_bad_options(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReasoningGym(ReasoningGym.Config(**config))


def test_prompts_that_never_fit() -> None:
    task = ReasoningGym(ReasoningGym.Config(max_prompt_tokens=5))
    task.bind(real.tokenizer())
    with pytest.raises(UserError, match="more than max_prompt_tokens = 5 tokens; raise it"):
        task.prompts("train", 1, 0)
