"""A reward is called as the tool that it was written for would call it.

Run: .venv/bin/python -m pytest tests/audit/test_scorer.py   (about 5 s on one core)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from outdo.audit import cases as reading
from outdo.audit.base import Case
from outdo.audit.scorer import load, scorer
from outdo.errors import UserError

ONE = Case("What is 1 + 1?", "<answer>2</answer>", {"answer": "2", "data_source": "sums"}, "2", True, column="answer")
TWO = replace(ONE, completion="<answer>3</answer>")


def trl(completions: list[str], prompts: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    assert prompts == ["What is 1 + 1?"] * len(completions) and kwargs["data_source"][0] == "sums"
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


def verl(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
    assert data_source == "sums"
    return {"score": float(ground_truth in solution_str), "acc": 1}


def verifiers(completion: str, answer: str) -> float:
    return float(answer in completion)


def openrlhf(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    assert queries[0].startswith(prompts[0])
    return {"rewards": [float(y in q[len(p) :]) for q, p, y in zip(queries, prompts, labels, strict=True)]}


def two(answer: str, reference: str) -> float:
    return float(reference in answer)


def turned(ground_truth: str, prediction: str) -> float:
    return float(ground_truth in prediction)


class Callable_:
    """An object with __call__."""

    def __call__(self, model_output: str, gold: str) -> float:
        return float(gold in model_output)


@pytest.mark.parametrize("reward", [trl, verl, verifiers, openrlhf, two, turned, Callable_()])
def test_signatures(reward: Any) -> None:
    s = scorer(reward)
    assert s.values([ONE]) == [1.0] and s.values([TWO]) == [0.0]
    assert s.values([ONE, TWO, ONE]) == [1.0, 0.0, 1.0]


def test_a_conversation_stays_one() -> None:
    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(c[0]["role"] == "assistant" and "2" in c[0]["content"]) for c in completions]

    assert scorer(reward).values([replace(ONE, chat=True, prompt=[{"role": "user", "content": "?"}])]) == [1.0]


def test_judges_by_name_and_by_table() -> None:
    for named in ("exact_match", '{ name = "exact_match", take = "tags" }'):
        judge = scorer(load(named))
        assert judge.style == "outdo judge" and judge.batched
    assert scorer(load('{ name = "exact_match", take = "tags" }')).values([ONE, TWO]) == [1.0, 0.0]


def test_a_data_set_of_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym")
    data = gym.create_dataset("chain_sum", size=3, seed=1)
    rows = [{"prompt": e["question"], "answer": e["answer"], "completion": e["answer"], "metadata": e["metadata"]} for e in data]
    s = scorer(data)
    right = reading.load(rows)
    assert s.values(right) == [1.0] * 3 and max(s.values([c.saying("no idea") for c in right])) < 0.1


@pytest.mark.parametrize(("what", "said"), [
    (lambda a, b, c: 0.0, "fits no signature that is known"), (7, "cannot be called"),
])  # fmt: skip
def test_what_nobody_would_call(what: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        scorer(what)


@pytest.mark.parametrize(("name", "said"), [
    ("nowhere.py:fn", "does not exist"), ('{ name = "math"', "is not valid TOML"), ("no_colon", "names no function"),
])  # fmt: skip
def test_what_cannot_be_loaded(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(name)


# --- rows as people have them -----------------------------------------------------------------------------------------


def test_gsm8k() -> None:
    (c,) = reading.load([{"question": "Six and six?", "answer": "6 + 6 = 12\n#### 12"}])
    assert (c.prompt, c.reference, c.completion, c.right) == ("Six and six?", "12", "6 + 6 = 12\n#### 12", True)
    t = reading.template(c)
    assert t is not None and t.fill("7") == "6 + 6 = ...\n#### 7"
    assert c.row["answer"].endswith("#### 12")  # the reward is given what the data has


def test_verl_and_messages() -> None:
    (c,) = reading.load(
        [{"prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": "5"}, "data_source": "x"}]
    )
    assert c.reference == "5" and c.column == "reward_model.ground_truth" and c.chat
    other = replace(c, reference="6", row={**c.row, "reward_model": {"ground_truth": "6"}})
    assert c.against(other).row["reward_model"] == {"ground_truth": "6"} and c.row["reward_model"] == {"ground_truth": "5"}


def test_marks() -> None:
    rows = [{"prompt": "p", "completion": "a", "answer": "a", "label": m} for m in (True, 0, "wrong", "correct")]
    assert [c.right for c in reading.load(rows)] == [True, False, False, True]


def test_named_columns_and_missing_ones() -> None:
    (c,) = reading.load([{"ask": "p", "say": "x 4", "truth": "4"}], {"prompt": "ask", "completion": "say", "reference": "truth"})
    assert (c.prompt, c.completion, c.reference) == ("p", "x 4", "4")
    with pytest.raises(UserError, match=r"row 0 has no prompt \(columns ask\); name it"):
        reading.load([{"ask": "p"}])
