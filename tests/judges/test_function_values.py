"""The judge `function`: what a reward is, and what is none.

Run: .venv/bin/python -m pytest tests/judges/test_function_values.py   (about 3 s on one core)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from outdo import plugins
from outdo.errors import UserError
from outdo.judges.base import Judge
from outdo.judges.function import FunctionJudge
from outdo.plugins import Plugin
from outdo.types import Finish, Trajectory


def reply(words: str) -> Trajectory:
    mask = np.array([False, True])
    return Trajectory("p/0", 0, np.arange(2), mask, np.float32(mask), 3, Finish.STOP,
                      {"prompt": "2+2?", "completion": words, "answer": "4"})


GOOD = [reply("4"), reply("5"), reply("44"), reply("")]


@pytest.mark.parametrize(("given", "value"), [
    (True, 1.0), (np.float32(0.5), 0.5), (np.int64(3), 3.0), (np.bool_(True), 1.0), (torch.tensor(0.25), 0.25),
    (np.array([2.0]), 2.0), (torch.tensor([True]), 1.0), (Decimal("0.1"), 0.1), (Fraction(1, 4), 0.25),
    (-1e30, -1e30), (10**30, 1e30), (None, None),
    (1e308, "at most 1e+30"), (-(10**400), "at most 1e+30"),
    (10**5000, "int that cannot be printed"), (float("nan"), "returned nan"),
    (np.float32("inf"), "at most 1e+30"), (Decimal("sNaN"), "returned Decimal('sNaN')"), (1j, "1j, which is no number"),
    (np.complex64(1), "which is no number"), ("1.0", "'1.0', which is no number"),
    (b"1", "which is no number"), ([1.0], "no number"),
    (torch.ones(2), "which is no number"), (np.array(["a"]), "which is no number"), (object, "which is no number"),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_what_is_a_number(given: Any, value: float | str | None) -> None:
    for function in (lambda completions, **kwargs: [given], lambda completion, answer: given):
        (score,) = FunctionJudge.of([function]).score([reply("x")])
        if isinstance(value, str):
            assert score.value is None and value in score.reason, score
        else:
            assert score.value == value and (value is None or type(score.value) is float)


def test_sums_and_metrics_that_are_no_numbers() -> None:
    def logs(completions: list[str], log_metric: Any, **kwargs: Any) -> list[float]:
        for value in (float("nan"), 3, -float("inf"), 1e400):
            log_metric("length", value)
        return [1e30] * len(completions)

    judge = FunctionJudge.of([logs], weights=[10.0])
    (score,) = judge.score([reply("x")])
    assert score.value is None and score.reason == "the weighted sum is 1e+31; a reward is at most 1e+30"
    assert judge.logged() == {"length": 3.0}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "many", True])
def test_weights_that_are_no_numbers(weight: Any) -> None:
    for make in (lambda: FunctionJudge.of([lambda completions, **kwargs: [1.0]], weights=[weight]),
                 lambda: plugins.make("judges", Plugin(name="function", weights=[weight]), Judge)):  # type: ignore[type-abstract]
        with pytest.raises(UserError, match=r"judge 'function': weights(\.0)? = .*: .*number"):
            make()


@pytest.mark.parametrize(("kind", "said"), [("generator", "a generator"), ("async", "an asynchronous generator"),
                                            ("map", "map")])
def test_lists_that_are_none(kind: str, said: str) -> None:
    def generator(completions: list[str], **kwargs: Any) -> Any:
        for c in completions:
            yield float(c == "4")

    async def asynchronous(completions: list[str], **kwargs: Any) -> Any:
        for c in completions:
            yield float(c == "4")

    given = {"generator": generator, "async": asynchronous, "map": lambda completions, **kwargs: map(len, completions)}[kind]
    with pytest.raises(UserError, match=f"returned {said}; return a list of 4 numbers, one per"):
        FunctionJudge.of([given]).score(GOOD)
    with pytest.raises(UserError, match="returned a generator; return one number"):
        FunctionJudge.of([lambda completion, answer: (x for x in [1.0])]).score(GOOD)


@pytest.mark.parametrize("ends", [sys.exit, lambda code: os._exit(code)])
def test_exit_is_an_exception_of_the_function(ends: Callable[[int], Any]) -> None:
    """Only the samples on which it is called have no score; as with all failures too many of them stop the run."""
    def runs(completions: list[str], **kwargs: Any) -> list[float]:
        return [ends(0) if c == "bad" else 1.0 for c in completions]

    scores = FunctionJudge.of([runs]).score([*GOOD, reply("bad"), *GOOD])
    assert [s.value for s in scores] == [1.0] * 4 + [None] + [1.0] * 4
    assert scores[4].reason == "runs raised SystemExit: it called exit(0)"
    with pytest.raises(UserError, match=r"score 9 of 9 samples; the first: runs raised SystemExit: it called exit\(0\)"):
        FunctionJudge.of([runs]).score([reply("bad")] * 9)
