"""The judge `function`: signatures of four tools, and functions that raise, hang or return nonsense.

Run: .venv/bin/python -m pytest tests/judges/test_function.py   (about 5 s on one core)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outdo import plugins, rewards
from outdo.errors import UserError
from outdo.evaluation.measure import part_means
from outdo.judges.base import Judge
from outdo.judges.function import FunctionJudge
from outdo.plugins import Plugin
from outdo.types import Finish, Trajectory


def reply(words: str, chat: bool = False, version: int = 3, **columns: Any) -> Trajectory:
    mask = np.array([False, False, True, True, False, True])
    prompt: Any = [{"role": "user", "content": "2+2?"}] if chat else "2+2?"
    completion: Any = [{"role": "assistant", "content": words}] if chat else words
    info = {"prompt": prompt, "completion": completion, "answer": "4", **columns}
    return Trajectory("p/0", 0, np.arange(10, 16), mask, np.float32(mask), version, Finish.STOP, info)


BATCH = [reply("4"), reply("five"), reply("44", answer="44"), reply("")]


def values(judge: Judge, batch: list[Trajectory]) -> list[float | None]:
    return [s.value for s in judge.score(batch)]


# --- the four signatures --------------------------------------------------------------------------------------------


def trl(completions, answer, **kwargs):  # type: ignore[no-untyped-def]
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


async def trl_async(prompts, completions, completion_ids, answer, trainer_state, **kwargs):  # type: ignore[no-untyped-def]
    await asyncio.sleep(0.001)
    return torch.tensor([float(c == a) for c, a in zip(completions, answer, strict=True)])


def compute_score(data_source, solution_str, ground_truth, extra_info=None):  # type: ignore[no-untyped-def]
    return {"score": float(solution_str == ground_truth), "acc": True}


def legacy(completion, answer, state, parser):  # type: ignore[no-untyped-def]
    assert state["answer"] == answer and state["prompt"]
    return np.float64(parser.parse_answer(completion) == answer)


def reward_func(queries, prompts, labels, **kwargs):  # type: ignore[no-untyped-def]
    return {"rewards": [float(q.removeprefix(p) == x) for q, p, x in zip(queries, prompts, labels, strict=True)]}


class Callable_:
    def __call__(self, completions, answer, **kwargs):  # type: ignore[no-untyped-def]
        return trl(completions, answer)


@pytest.mark.parametrize(
    ("function", "style"),
    [(trl, "TRL"), (trl_async, "TRL"), (Callable_(), "TRL"), (compute_score, "verl"), (legacy, "verifiers"),
     (reward_func, "OpenRLHF")],
)
def test_signatures_are_read(function: Callable[..., Any], style: str) -> None:
    judge = FunctionJudge.of([function])
    assert f"({style}, weight 1)" in judge.describe()
    assert values(judge, BATCH) == [1.0, 0.0, 1.0, 0.0]
    assert [values(judge, [t])[0] for t in BATCH[::-1]] == [0.0, 1.0, 0.0, 1.0], "alone as in company"
    assert values(judge, []) == []


def test_trl_arguments_are_exactly_trls() -> None:
    seen: dict[str, Any] = {}

    def look(**kwargs: Any) -> list[float]:
        seen.update(kwargs)
        kwargs["log_metric"]("length", 3.0)
        kwargs["log_extra"]("said", ["<b>", "b"])
        return [1.0, 2.0]

    judge = FunctionJudge.of([look], weights=[0.5])
    scores = judge.score([reply("x", chat=True, label=1), reply("y", chat=True, label=None)])
    assert seen.pop("trainer_state").global_step == 3 and callable(seen.pop("log_extra")) and callable(seen.pop("log_metric"))
    assert seen == {
        "prompts": [[{"role": "user", "content": "2+2?"}]] * 2,
        "completions": [[{"role": "assistant", "content": "x"}], [{"role": "assistant", "content": "y"}]],
        "completion_ids": [[12, 13, 14, 15]] * 2,  # from the first sampled token on, what a tool said included
        "answer": ["4", "4"],
        "label": [1, None],
    }
    assert [s.value for s in scores] == [0.5, 1.0] and scores[0].parts == {"look": 1.0} and "said=<b>" in scores[0].reason
    assert judge.logged() == {"length": 3.0} and judge.logged() == {}


def test_weights_and_functions_that_do_not_apply() -> None:
    def odd(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [None if c == "" else float(len(c) % 2) for c in completions]

    scores = FunctionJudge.of([trl, odd, odd], weights=[1.0, 0.5, -0.25]).score([*BATCH, reply("")])
    assert [s.value for s in scores] == [1.25, 0.0, 1.0, 0.0, 0.0]
    assert scores[3].parts == {"trl": 0.0, "odd_1": None, "odd_2": None}
    (nothing,) = FunctionJudge.of([odd]).score([reply("")])
    assert nothing.value is None and nothing.reason == "no function applies to this sample"
    assert values(FunctionJudge.of([odd]), [reply("")] * 20) == [None] * 20, "not applying is no failure"


def test_verl_rows() -> None:
    row = {"data_source": "gsm", "reward_model": {"style": "rule", "ground_truth": "7"}, "extra_info": {"index": 1}}

    def score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, int]) -> float:
        assert data_source == "gsm" and extra_info == {"index": 1}
        return float(solution_str == ground_truth)

    assert values(FunctionJudge.of([score]), [reply("7", chat=True, **row), reply("4", **row)]) == [1.0, 0.0]


def test_from_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def exact(completions, answer, **kwargs):\n    return [float(c == a) for c, a in zip(completions, answer)]",
                                            encoding="utf-8")

    def make(**options: Any) -> Judge:
        return plugins.make("judges", Plugin(name="function", **options), Judge)  # type: ignore[type-abstract]

    both = [f"{file}:exact", "outdo.rewards:think_format_reward"]
    judge = make(functions=both, weights=[1, 0.5])
    assert values(judge, BATCH) == [1.0, 0.0, 1.0, 0.0]
    assert judge.describe() == "reward = exact (TRL, weight 1) + think_format_reward (TRL, weight 0.5)"
    for options, message in (
        ({"functions": both, "weights": [1]}, "2 functions and 1 weights"),
        ({"functions": [f"{file}:exat"]}, "has no exat; did you mean 'exact'"),
        ({"functions": ["exact"]}, "names no function; write my_file.py:name"),
        ({"functions": [f"{tmp_path}/no.py:exact"]}, "does not exist"),
        ({"functions": ["no.such.module:f"]}, "cannot be imported"),
        ({"functions": ["math:pi"]}, "float, which cannot be called"),
        ({"functions": ["shutil:rmtree"]}, "fits no known signature"),
    ):
        with pytest.raises(UserError, match=message):
            make(**options)
    with pytest.raises(UserError, match="has no functions; set functions"):
        make().score(BATCH)


# --- functions that misbehave ---------------------------------------------------------------------------------------


def shy(kind: str) -> Callable[..., Any]:
    """Well-behaved but for completions that say `bad`."""

    def answer(completion: str) -> Any:
        if completion != "bad":
            return 1.0
        if kind == "raises":
            raise ZeroDivisionError("division by zero")
        if kind == "hangs":
            while True:
                try:
                    time.sleep(5)
                except Exception:  # swallows what it can
                    continue
        return {"nan": float("nan"), "inf": -float("inf"), "text": "1.0", "list": [1.0]}[kind]

    return lambda completions, **kwargs: [answer(c) for c in completions]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("raises", "raised ZeroDivisionError: division by zero"), ("hangs", "longer than timeout_s = 0.2"), ("nan", "returned nan"),
     ("inf", "returned -inf"), ("text", "returned '1.0', which is no number"), ("list", "which is no number")],
)  # fmt: skip
def test_only_the_bad_sample_has_no_score(kind: str, reason: str) -> None:
    judge = FunctionJudge.of([shy(kind)], timeout_s=0.2)
    scores = judge.score([*BATCH, reply("bad"), *BATCH])
    assert [s.value for s in scores] == [1.0] * 4 + [None] + [1.0] * 4 and reason in scores[4].reason
    assert judge.score([reply("bad")])[0].value is None, "alone it is no reason to stop"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raises", "nan", "hangs"])
def test_too_many_bad_samples_stop_the_run(kind: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"judge function could not score \d+ of 9 samples; the first: .*; mend the function"):
        FunctionJudge.of([shy(kind)], timeout_s=0.2).score([*BATCH, *[reply("bad")] * 5])
    assert time.monotonic() - began < 4
    FunctionJudge.of([shy("nan")], unscored_limit=0.6).score([*BATCH, *[reply("bad")] * 5])


def test_a_sample_that_one_function_cannot_score_has_no_score() -> None:
    (score,) = FunctionJudge.of([trl, shy("nan")]).score([reply("bad", answer="bad")])
    assert score.value is None and list(score.parts.values()) == [1.0, None]


@pytest.mark.parametrize(
    ("given", "message"),
    [([1.0], "returned 1 values for 4 completions"), (1.0, "returned 1.0 for 4"), ("four", "returned 'four'"),
     (None, "returned None")],
)
def test_wrong_lengths(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionJudge.of([lambda completions, **kwargs: given]).score(BATCH)


def test_missing_columns() -> None:
    def wants(completions: list[str], solution: list[str]) -> list[float]:
        return [1.0] * len(completions)

    judge = FunctionJudge.of([wants])
    assert judge.score(BATCH)[0].reason == "wants needs the column solution, which the data does not have"
    assert values(judge, [reply("x", solution="s"), *BATCH]) == [1.0, None, None, None, None]
    with pytest.raises(UserError, match="could not score 8 of 8 samples; the first: wants needs the column solution"):
        judge.score(BATCH * 2)


@pytest.mark.slow
def test_off_the_main_thread() -> None:
    """There, and for coroutines, a hanging function is left behind."""

    async def sleeps(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(60.0 * ("bad" in completions))
        return [1.0] * len(completions)

    got: list[Any] = []
    for function in (shy("hangs"), sleeps):
        judge = FunctionJudge.of([function], timeout_s=0.2)
        assert values(judge, [reply("bad"), *BATCH]) == [None, 1.0, 1.0, 1.0, 1.0]
        if function is sleeps:
            thread = threading.Thread(target=lambda j=judge: got.append(values(j, [reply("bad"), *BATCH])))
            thread.start()
            thread.join()
    assert got == [[None, 1.0, 1.0, 1.0, 1.0]]


def test_interrupted_functions_are_gone() -> None:
    """On the main thread nothing goes on in the background, and the signal's handler is put back."""
    import signal

    before = signal.getsignal(signal.SIGURG)
    threads = threading.active_count()
    FunctionJudge.of([shy("hangs")], timeout_s=0.1).score([reply("bad")])
    time.sleep(0.05)
    assert threading.active_count() <= threads and signal.getsignal(signal.SIGURG) == before


# --- functions of groups, and verifiers' rubrics ---------------------------------------------------------------------


def shortest(completions, answers, states, infos, tasks, parser):  # type: ignore[no-untyped-def]
    """As verifiers' users write functions that compare the samples of a prompt: names in the plural."""
    assert [s["completion"] for s in states] == completions and infos == [{}] * len(completions) and len(tasks) == len(answers)
    lengths = [len(parser.parse_answer(c)) for c in completions]
    return [float(n == min(lengths)) for n in lengths]


async def diverse(completions, **kwargs) -> list[float]:  # type: ignore[no-untyped-def]
    return [float(completions.count(c) == 1) for c in completions]


def of(prompt: int, words: str, **columns: Any) -> Trajectory:
    return replace(reply(words, **columns), prompt_id=f"p/{prompt}")


GROUPS = [of(0, "aa"), of(1, "bb"), of(0, "a"), of(1, "b"), of(1, "bb"), of(0, "a")]


def test_functions_of_groups_see_one_group_at_a_time() -> None:
    judge = FunctionJudge.of([shortest])
    assert judge.describe() == "reward = shortest (verifiers, per group, weight 1)"
    assert values(judge, GROUPS) == [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    marked = FunctionJudge.of([rewards.per_group(lambda completions, **kwargs: [float(len(completions))] * len(completions))])
    assert "TRL, per group" in marked.describe() and values(marked, [*GROUPS, of(2, "c")]) == [3.0] * 6 + [1.0]
    with pytest.raises(UserError, match="is marked per_group and takes one sample"):
        FunctionJudge.of([rewards.per_group(lambda solution_str, ground_truth: 1.0)])


def test_a_column_wins_over_the_plural() -> None:
    """A TRL user's column may be called `answers`: it is handed on as it is, and so are the other columns."""

    def fits(completions: list[str], answers: list[list[str]], level: list[int], **kwargs: Any) -> list[float]:
        return [float(c in a) + n for c, a, n in zip(completions, answers, level, strict=True)]

    batch = [of(i, "a", answers=["a", "b"] if i else ["b"], level=10 * i) for i in range(2)]
    assert values(FunctionJudge.of([fits]), batch) == [0.0, 11.0]


def test_a_group_on_which_a_function_fails_has_no_score() -> None:
    def picky(completions: list[str], states: list[Any]) -> list[float]:
        if "bb" in completions:
            raise ValueError("bb")
        return [1.0] * len(completions)

    scores = FunctionJudge.of([picky]).score(GROUPS)
    assert [s.value for s in scores] == [1.0, None, 1.0, None, None, 1.0] and "picky raised ValueError: bb" in scores[1].reason
    with pytest.raises(UserError, match="returned 1 values for 3 completions"):
        FunctionJudge.of([lambda completions, states: [1.0]]).score(GROUPS)
    with pytest.raises(UserError, match="could not score 9 of 12 samples; the first: picky raised ValueError: bb"):
        FunctionJudge.of([picky]).score([*GROUPS, *(replace(g, prompt_id="p/1") for g in GROUPS)])


class Rubric:
    """What verifiers.Rubric is to whoever reads it."""

    def __init__(self, funcs: list[Any], weights: list[float] | None = None, **objects: Any) -> None:
        self.funcs, self.weights, self.class_objects = funcs, weights or [1.0] * len(funcs), objects


def test_rubrics() -> None:
    def judged(completion: str, answer: str, limit: int) -> float:
        return float(len(completion) <= limit) + (answer == "4")

    def broken_metric(state: dict[str, Any]) -> float:
        return float(state["trajectory"][0])

    def length(completion: str, **kwargs: Any) -> int:
        return len(completion)

    rubric = Rubric([judged, diverse, broken_metric, length], [1.0, 0.5, 0.0, 0.0], limit=1)
    judge = FunctionJudge.of([rubric, trl], weights=[2.0, 1.0])
    assert list(judge.weights) == [2.0, 1.0, 0.0, 0.0, 1.0]
    assert "diverse (verifiers, per group, weight 1)" in judge.describe()
    scores = judge.score(GROUPS)
    assert [s.value for s in scores] == [2.0 + 1.0, 2.0, 4.0, 4.0 + 1.0, 2.0, 4.0]
    means = part_means(scores)
    assert means["length"] == pytest.approx(9 / 6) and "broken_metric" not in means, "weight 0 is measured, and may fail"
    assert means["judged"] == 0.5 + 1.0 and means["diverse"] == pytest.approx(2 / 6), "and so is all that weighs something"
    older = type("Rubric", (), {"reward_funcs": [length], "reward_weights": [0.5], "parser": None})()  # of verifiers 0.1.5
    assert values(FunctionJudge.of([older]), GROUPS[:1]) == [1.0]
    group = type("RubricGroup", (), {"rubrics": [Rubric([judged], limit=1), Rubric([length])], "funcs": [], "weights": []})()
    assert values(FunctionJudge.of([group]), GROUPS[:1]) == [1.0 + 2.0]
