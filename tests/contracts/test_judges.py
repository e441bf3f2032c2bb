"""What every judge promises, for each file in outdo/judges/, on games of chess or, for judges of text, on replies.

Run: .venv/bin/python -m pytest tests/contracts/test_judges.py   (about 5 s on one core)
"""

from __future__ import annotations

import copy
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
import reward_models
from pydantic import ValidationError

from outdo import plugins
from outdo.judges.base import Judge
from outdo.plugins import Plugin
from outdo.tasks.base import Task
from outdo.types import Finish, Trajectory

NAMES = [n for n in plugins.names("judges") if n != "llm"]  # it needs a server: tests/judges/test_llm.py
OF_TEXT: dict[str, Callable[[], dict[str, object]]] = {  # judges of text, with the options to test
    "function": lambda: {"functions": [f"{__file__}:exact"]},
    "reasoning_gym": dict,
    "reward_model": lambda: {"model": str(reward_models.folder())},
    "examples": lambda: {"data": labelled(), "model": str(reward_models.folder())},
    "code": lambda: {"column": "tests"},
    "exact_match": lambda: {"take": "tags"},
    "math": dict,
    "choice": dict,
    "regex": lambda: {"pattern": r"<answer>\d+</answer>"},
    "format": lambda: {"tags": ["answer"]},
    "length": lambda: {"min_words": 2},
    "repetition": lambda: {"ngram": 1},
    "json_schema": lambda: {"column": "schema"},
    "sum": lambda: {"parts": [{"judge": "format", "tags": ["answer"], "gate": 1.0, "weight": 0.1},
                              {"judge": "exact_match", "take": "tags", "weight": 0.9}]},
}
BOUNDS = {"reward_model": (-math.inf, math.inf), "length": (-1.0, 0.0), "repetition": (-1.0, 0.0)}  # others: 0 to 1
COLUMNS: dict[str, dict[str, object]] = {  # in place of the task's own
    "code": {"tests": ["assert f(1) == 2"]}, "choice": {"answer": "B"}, "json_schema": {"schema": {"type": "string"}},
}  # fmt: skip


@functools.cache
def labelled() -> str:
    """Twenty labelled answers in a file."""
    file = Path(tempfile.mkdtemp(prefix="outdo-test-")) / "labelled.jsonl"
    rows = [{"prompt": f"Q{i}", "completion": f"<answer>{i}</answer>" if i % 2 else "no", "label": i % 2} for i in range(20)]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(file)


def exact(completions, answer, **kwargs):  # type: ignore[no-untyped-def]
    """A reward function in TRL's signature."""
    pairs = zip(completions, answer, strict=True)
    return [None if a is None else float(c[0]["content"] == f"<answer>{a}</answer>") for c, a in pairs]


def make(name: str, **options: object) -> Judge:
    options = {**OF_TEXT.get(name, dict)(), **options}
    return plugins.make("judges", Plugin(name=name, **options), Judge)  # type: ignore[type-abstract, arg-type]


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n == "code" else n for n in NAMES])  # it starts processes
def judge(request: pytest.FixtureRequest) -> Judge:
    return make(request.param)


@pytest.fixture(scope="module")
def chess() -> list[Trajectory]:
    """Good and bad games, as different samples of their prompts."""
    task: Task = plugins.make("tasks", Plugin(name="chess_endgame"), Task)  # type: ignore[type-abstract]
    prompts, out = task.prompts("train", 12, seed=3), []
    for sample, (player, opponent) in enumerate((p, o) for p in task.players for o in task.opponents):
        out += [replace(t, sample=sample) for t in task.play(player, prompts, np.arange(12), opponent)]
    return out


@pytest.fixture(scope="module")
def replies() -> list[Trajectory]:
    """Right and wrong answers to questions, as different samples of their prompts."""
    task: Task = plugins.make("tasks", Plugin(name="reasoning_gym"), Task)  # type: ignore[type-abstract]
    task.bind(real.tokenizer())
    right, out = task.play("gold", task.prompts("train", 12, seed=3), np.arange(12)), []
    for sample, words in enumerate((None, "", "<answer></answer>", "<answer>1</answer>", "no")):
        said = [{"role": "assistant", "content": words}]
        out += [replace(t, sample=sample, info={**t.info, "completion": said} if words is not None else t.info) for t in right]
    return out


@pytest.fixture
def games(judge: Judge, chess: list[Trajectory], replies: list[Trajectory]) -> list[Trajectory]:
    if judge.name not in OF_TEXT:
        return chess
    said = {"code": ("f = lambda x: 2", "x"), "choice": ("Answer: A", "B"), "json_schema": ('"a"', "7")}.get(judge.name, ())
    further = [replace(replies[0], sample=9 + i, info={**replies[0].info, "completion": [{"role": "assistant", "content": s}]})
               for i, s in enumerate(said)]
    return [replace(t, info={**t.info, **COLUMNS.get(judge.name, {})}) for t in [*replies, *further]]


def values(judge: Judge, games: list[Trajectory]) -> list[float | None]:
    scores = judge.score(games)
    assert len(scores) == len(games)
    return [s.value for s in scores]


def same(want: Any) -> Any:
    """Equal up to the rounding of a reward model, whose matrix products depend on how many texts are read together."""
    return pytest.approx(want, abs=1e-5)


def damaged(games: list[Trajectory]) -> Iterator[tuple[Trajectory, Trajectory]]:
    """(whole, damaged): the task reports nothing, or one fact fewer, or says that it does not know."""
    for game in games:
        yield game, replace(game, info={})
        for fact in game.info:
            yield game, replace(game, info={k: v for k, v in game.info.items() if k != fact})
            yield game, replace(game, info={**game.info, fact: None})


@pytest.mark.slow
def test_scores_are_numbers_with_reasons(judge: Judge, games: list[Trajectory]) -> None:
    scores = judge.score(games)
    low, high = BOUNDS.get(judge.name, (0.0, 1.0))
    assert all(isinstance(s.value, float) and low <= s.value <= high and isinstance(s.reason, str) for s in scores)
    assert len({s.value for s in scores}) > 1, "it tells nothing apart"


def test_order_and_company_do_not_matter(judge: Judge, games: list[Trajectory]) -> None:
    want = values(judge, games)
    order = np.random.default_rng(0).permutation(len(games)).tolist()
    assert values(judge, [games[i] for i in order]) == same([want[i] for i in order])
    assert [values(judge, [g])[0] for g in games] == same(want)
    assert values(make(judge.name), games + games) == same(want + want)
    assert values(judge, []) == []


def test_what_broke_cannot_be_judged(judge: Judge, games: list[Trajectory]) -> None:
    """A failed tool is not a lost game, whatever the episode's facts say so far: None, never a number."""
    for info in (games[0].info, {}):
        broken = [replace(g, finish=Finish.ERROR, info=dict(g.info) if info else {}) for g in games]
        assert values(judge, broken) == [None] * len(games)
    mixed = [g for game in games for g in (game, replace(game, finish=Finish.ERROR))]
    assert values(judge, mixed)[::2] == same(values(judge, games)), "broken neighbours change nothing"


def test_missing_facts_give_none_never_zero(judge: Judge, games: list[Trajectory]) -> None:
    """A fact that the judge does not use may go; one that it uses takes the score with it."""
    pairs = list(damaged(games[::5]))
    before, after = values(judge, [w for w, _ in pairs]), values(judge, [d for _, d in pairs])
    assert all(a is None or a == same(b) for b, a in zip(before, after, strict=True))
    reasons = [s.reason for s in judge.score([d for _, d in pairs]) if s.value is None]
    assert all(reasons), "None without a reason"


def test_which_judges_need_facts(chess: list[Trajectory]) -> None:
    """The test above is not vacuous: all judges but the coin need the task's facts."""
    bare = [replace(g, info={}) for g in chess]
    assert {n for n in NAMES if None not in values(make(n), bare)} == {"random_reward"}


def test_trajectories_are_left_alone(judge: Judge, games: list[Trajectory]) -> None:
    before = copy.deepcopy(games)
    judge.score(games)
    for a, b in zip(games, before, strict=True):
        assert a.info == b.info and (a.token_ids == b.token_ids).all() and (a.mask == b.mask).all()


def test_options(judge: Judge) -> None:
    """Every option has a default, unknown ones are refused, the name is the file's, cost is never negative."""
    assert make(judge.name).name == judge.name and judge.name in NAMES and judge.Config.model_config["frozen"]
    assert judge.flops_per_call >= 0
    with pytest.raises(ValidationError):
        judge.Config(no_such_option=1)  # type: ignore[call-arg]


# --- by hand --------------------------------------------------------------------------------------------------------


def game(**info: object) -> Trajectory:
    zeros = np.zeros(3, np.float32)
    facts = {"result": "mate", "moves": 4, "checks": 1, "confinement": 0.7, **info}
    return Trajectory("p/0", 0, np.zeros(3, np.int64), zeros > 0, zeros, 0, Finish.DONE, facts)


@pytest.mark.parametrize(
    ("name", "info", "want"),
    [
        ("outcome", {}, 1.0),
        ("outcome", {"result": "stalemate"}, 0.0),
        ("outcome", {"result": "illegal"}, 0.0),
        ("outcome", {"result": "unfinished"}, 0.0),
        ("gives_check", {}, 0.25),
        ("gives_check", {"result": "illegal"}, 0.2),
        ("gives_check", {"moves": 0, "checks": 0, "result": "illegal"}, 0.0),
        ("gives_check", {"moves": 0, "checks": 0, "result": "unfinished"}, 0.0),
        ("confinement", {}, 0.7),
        ("confinement", {"result": "stalemate", "confinement": 1.0}, 1.0),
        ("confinement", {"result": "illegal"}, 0.0),
    ],
)
def test_golden(name: str, info: dict[str, object], want: float) -> None:
    assert values(make(name), [game(**info)]) == [want]


def test_outcome_counts_the_win_it_is_told() -> None:
    judge = make("outcome", win="stalemate")
    assert values(judge, [game(), game(result="stalemate")]) == [0.0, 1.0]


def test_random_reward_is_a_fair_coin_that_knows_nothing() -> None:
    flips = [replace(game(), prompt_id=f"p/{i}", sample=s) for i in range(500) for s in range(4)]
    for probability in (0.5, 0.1):
        mean = np.mean(values(make("random_reward", probability=probability), flips))  # type: ignore[arg-type]
        assert abs(mean - probability) < 4 * (probability * (1 - probability) / 2000) ** 0.5
    judge = make("random_reward")
    won, lost = values(judge, flips), values(judge, [replace(g, info=game(result="illegal").info) for g in flips])
    assert won == lost
    assert won != values(make("random_reward", seed=1), flips)
    assert won != values(judge, [replace(g, policy_version=1) for g in flips]), "a fresh coin for every policy"
