"""Ready-made reward functions: by hand, and beside TRL's own where TRL is installed.

Run: .venv/bin/python -m pytest tests/test_rewards.py   (about 5 s on one core)
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from outdo import rewards
from outdo.judges.function import FunctionJudge
from outdo.types import Finish, Trajectory

MATHS = [(r"\boxed{\frac{1}{3}}", r"\frac{1}{3}", 1.0), (r"My answer is \boxed{0.5}", r"\frac{1}{2}", 1.0),
         (r"\boxed{2}", "3", 0.0), ("no idea", "3", 0.0), ("The final answer is $x+1$.", "$1+x$", 1.0)]  # fmt: skip
THINKING = ["<think>a</think>b", "<think>a\n</think>\nb", "x<think>a</think>", "<think>a", "<think><think>a</think>b",
            "<think>a</think><think>b</think>", ""]  # fmt: skip


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def trajectory(text: str, ids: list[int], **columns: Any) -> Trajectory:
    mask = np.array([False] + [True] * len(ids))
    info = {"prompt": [{"role": "user", "content": "?"}], "completion": said(text), **columns}
    return Trajectory("p/0", 0, np.array([0, *ids]), mask, np.zeros(len(mask), np.float32), 0, Finish.STOP, info)


def test_accuracy() -> None:
    pytest.importorskip("math_verify")
    completions, solutions, want = zip(*MATHS, strict=True)
    assert rewards.accuracy_reward([said(c) for c in completions], solutions) == list(want)
    assert rewards.accuracy_reward(completions, solutions) == list(want), "plain completions, too"
    assert rewards.accuracy_reward(["4"], [""]) == [None]


def test_think_format() -> None:
    want = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert rewards.think_format_reward([said(t) for t in THINKING]) == rewards.think_format_reward(THINKING) == want


def test_lengths_and_repetition() -> None:
    overlong = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    assert overlong([[1] * n for n in (0, 80, 90, 100, 101)]) == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert rewards.get_soft_overlong_punishment(10, 0)([[1] * 10, [1] * 11]) == [0.0, -1.0]
    repeats = rewards.get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0)
    assert repeats([[1, 2, 3, 4], [5] * 5, [5], []]) == [0.0, -0.75, 0.0, 0.0]
    with pytest.raises(ValueError, match="positive"):
        rewards.get_repetition_penalty_reward(3, 1.0)


def test_trls_own_functions_run_as_imported() -> None:
    """And ours give what theirs give."""
    pytest.importorskip("math_verify")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = pytest.importorskip("trl.rewards")
        makers = ("get_soft_overlong_punishment", (100, 20)), ("get_repetition_penalty_reward", (2, -1.0))
        functions = [(getattr(theirs, n)(*a), getattr(rewards, n)(*a)) for n, a in makers]
        functions += [(getattr(theirs, n), getattr(rewards, n)) for n in ("accuracy_reward", "think_format_reward")]
    rng = np.random.default_rng(0)
    batch = [trajectory(c, rng.integers(0, 4, n).tolist(), solution=s)
             for (c, s, _), n in zip([*MATHS, *((t, "7", 0.0) for t in THINKING)], (1, 50, 85, 99, 100, 101, 3, 2, 7, 0, 90, 95),
                                     strict=True)]  # fmt: skip
    for their, our in functions:
        a, b = FunctionJudge.of([their]), FunctionJudge.of([our])
        assert "(TRL, weight 1)" in a.describe()
        x, y = [s.value for s in a.score(batch)], [s.value for s in b.score(batch)]
        assert None not in x and x == pytest.approx(y), a.describe()
        assert len(set(x)) > 1, a.describe()
    reasoning = FunctionJudge.of([theirs.reasoning_accuracy_reward])
    assert [s.value for s in reasoning.score([trajectory(r"<think>x</think>\boxed{3}", [1], solution="3")])] == [1.0]
