"""Judges that are rules, on completions of every kind, honest and hostile.

Run: .venv/bin/python -m pytest tests/judges/test_rules.py   (about 5 s on one core)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outdo import plugins
from outdo.errors import UserError
from outdo.judges.base import Judge
from outdo.judges.common.worker import Worker
from outdo.plugins import Plugin
from outdo.types import Finish, Score, Trajectory


def make(name: str, **options: object) -> Judge:
    return plugins.make("judges", Plugin(name=name, **options), Judge)  # type: ignore[type-abstract, arg-type]


def said(text: str, tokens: int = 3, **columns: Any) -> Trajectory:
    ids = np.arange(tokens + 2)
    return Trajectory("p", 0, ids, ids >= 2, np.zeros(len(ids), np.float32), 0, Finish.STOP,
                      {"prompt": "Q", "completion": text, **columns})


def one(judge: Judge, text: str, tokens: int = 3, **columns: Any) -> Score:
    (score,) = judge.score([said(text, tokens, **columns)])
    return score


@pytest.mark.parametrize(("options", "text", "answer", "want"), [
    ({}, " Paris\n", "paris", 1.0), ({"case": True}, "Paris", "paris", 0.0), ({}, "Paris", ["Rome", "PARIS"], 1.0),
    ({}, "It is Paris", "Paris", 0.0), ({"take": "last_line"}, "It is\nParis\n\n", "Paris", 1.0),
    ({"take": "tags"}, "<answer>4</answer> no, <answer> 5 </answer>", "5", 1.0), ({"take": "tags"}, "5", "5", 0.0),
    ({"take": "boxed"}, r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}", 1.0), ({"take": "boxed"}, r"\boxed{1", "1", 0.0),
    ({"take": "hashes"}, "2+2=4\n#### 4", "first two\n#### 4", 1.0), ({"take": "number"}, "1,234.5 in all", 1234.5, 1.0),
    ({"take": "number"}, "٣", "3", 0.0), ({}, "<think>Rome</think>Paris", "Paris", 1.0), ({}, "<think>Paris", "Paris", 0.0),
    ({}, "", "Paris", 0.0),
])  # fmt: skip
def test_exact_match(options: dict[str, Any], text: str, answer: Any, want: float) -> None:
    assert one(make("exact_match", **options), text, answer=answer).value == want


@pytest.mark.parametrize(("text", "answer", "want"), [
    ("The answer is 0.5", "1/2", 1.0), (r"\boxed{\frac{2}{4}}", "0.5", 1.0), ("so 3", 4, 0.0), ("", "4", 0.0),
    ("I do not know", "4", 0.0), (r"\boxed{x+1}", "1+x", 1.0), ("nan", "4", 0.0), ("9" * 400, "4", 0.0),
    ("#### 72", "a worked answer\n#### 72", 1.0),
])  # fmt: skip
def test_math(text: str, answer: Any, want: float) -> None:
    assert one(make("math"), text, answer=answer).value == want


def test_math_without_a_gold_answer_has_no_score() -> None:
    score = one(make("math"), "4", answer="")
    assert score.value is None and "no number" in score.reason


def test_math_ends_in_time() -> None:
    begun = time.monotonic()
    score = one(make("math", timeout_s=1.0), r"\boxed{((((2^{9})^{9})^{9})^{9})!}", answer="2")
    assert score.value == 0.0 and time.monotonic() - begun < 5


@pytest.mark.parametrize(("text", "answer", "want", "answered"), [
    ("B", "B", 1.0, True), ("(b)", "B", 0.0, False), ("The answer is (C).", "C", 1.0, True),
    ("Answer: A\nAnswer: D", "D", 1.0, True),
    ("Answer: A, or answer: B", "A", 0.0, False), ("A B C D", "A", 0.0, False), ("<answer>C</answer>", 2, 1.0, True),
    (r"\boxed{A}", "A", 1.0, True), ("The answer is Apples", "A", 0.0, False), ("", "A", 0.0, False), ("C", 0, 0.0, True),
])  # fmt: skip
def test_choice(text: str, answer: Any, want: float, answered: bool) -> None:
    score = one(make("choice"), text, answer=answer)
    assert (score.value, score.answered) == (want, answered)


def test_choice_of_a_letter_that_there_is_not() -> None:
    assert one(make("choice", letters="AB"), "A", answer="C").value is None


def test_regex() -> None:
    judge = make("regex", pattern=r"\d+ (cats|dogs)")
    assert [one(judge, t).value for t in ("3 cats", "3 cats!", "")] == [1.0, 0.0, 0.0]
    assert one(make("regex", pattern="dog", search=True), "two dogs").value == 1.0
    begun = time.monotonic()
    slow = one(make("regex", pattern="(a+)+b", timeout_s=0.5), "a" * 40)
    assert slow.value is None and "longer than 0.5 s" in slow.reason and time.monotonic() - begun < 5
    for pattern, why in (("", "has no pattern"), ("(", "no regular expression")):
        with pytest.raises(UserError, match=why):
            make("regex", pattern=pattern)


@pytest.mark.parametrize(("text", "want"), [
    ("<think>a</think>\n<answer>b</answer>\n", 1.0), ("<answer>b</answer><think>a</think>", 0.0), ("<think>a</think>", 0.0),
    ("<think>a</think><answer> </answer>", 0.0), ("hm <think>a</think><answer>b</answer>", 0.0), ("", 0.0),
    ("<think>a</think><answer>b</answer> bye", 0.0), ("<think>a</think><think>a</think><answer>b</answer>", 0.0),
    ("</think><think><answer></answer>" * 3000, 0.0),
])  # fmt: skip
def test_format(text: str, want: float) -> None:
    score = one(make("format"), text)
    assert score.value == want and score.answered == (want == 1.0)
    assert one(make("format", tags=["answer"], text_after=True), "so <answer>b</answer> bye").value == 1.0


def test_length_and_repetition() -> None:
    soft = make("length", max_tokens=100, cache_tokens=20)
    assert [one(soft, "x", n).value for n in (80, 90, 100, 500)] == [0.0, -0.5, -1.0, -1.0]
    assert [one(make("length", max_tokens=4), "x", n).value for n in (4, 5)] == [0.0, -1.0]
    assert one(make("length", min_words=4), "one two three").value == -0.25
    t = said("x", 6)
    same = Trajectory("p", 0, np.ones(8, np.int64), t.mask, t.logprobs, 0, Finish.STOP, t.info)
    assert [s.value for s in make("repetition", ngram=2).score([t, same])] == [0.0, pytest.approx(-0.8)]
    assert one(make("repetition"), "x", 2).value == 0.0


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def test_json_schema(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    judge = make("json_schema", data=str(file), parses=0.25)
    texts = ('{"age": 3}', '```json\n{"age": "3"}\n```', "{age: 3}", "", "[" * 50_000, '{"age": 3} {"age": 3}')
    assert [one(judge, t).value for t in texts] == [1.0, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert not one(judge, "no").answered
    own = make("json_schema", column="schema")
    assert one(own, '{"age": 3}', schema=SCHEMA).value == one(own, "3", schema='{"type": "integer"}').value == 1.0
    assert one(own, "3", schema="{").value is None and one(own, "3", schema={"type": 7}).value is None
    remote = {"$ref": "https://example.com/schema.json"}
    with pytest.raises(Exception, match=r"example\.com"):
        one(own, "3", schema=remote)
    with pytest.raises(UserError, match="set one"):
        make("json_schema")


# --- sum ------------------------------------------------------------------------------------------------------------

PARTS: list[dict[str, Any]] = [
    {"judge": "format", "weight": 0.2, "gate": 1.0}, {"judge": "exact_match", "take": "tags", "weight": 2.0, "high": 0.4},
    {"judge": "length", "min_words": 50, "weight": 0.0, "name": "short"},
]


def test_sum_by_hand() -> None:
    """Format 1 x 0.2 + exact match cut to 0.4 x 2; with a broken form the gate's own 0 is all there is."""
    judge = make("sum", parts=PARTS)
    right = one(judge, "<think>a</think><answer>b</answer>", answer="b")
    assert right.value == pytest.approx(0.2 + 0.8)
    assert right.parts == {"format": 1.0, "exact_match": 1.0, "short": pytest.approx(-0.98)}
    broken = one(judge, "<answer>b</answer>", answer="b")
    assert broken.value == 0.0 and "below its gate" in broken.reason and not broken.answered
    assert broken.parts["exact_match"] == 1.0, "measured all the same"
    assert judge.lacks(said("x")) == ["answer"]
    cut = make("sum", parts=[{"judge": "length", "max_tokens": 1, "weight": 5}], low=-2.0)
    assert one(cut, "x").value == -2.0


def test_a_part_without_a_score_leaves_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def broken(completions, **kwargs):\n    raise ValueError('no')\n\n\ndef fine(completions, **kwargs):\n"
                    "    return [0.5] * len(completions)\n", encoding="utf-8")
    parts = [{"judge": f"{file}:fine"}, {"judge": f"{file}:broken", "name": "other"}]
    score = one(make("sum", parts=parts), "x")
    assert score.value is None and score.reason.startswith("other:") and score.parts == {"function": 0.5, "other": None}
    idle = [parts[0], {**parts[1], "weight": 0.0}]
    assert one(make("sum", parts=idle), "x").value == 0.5


@pytest.mark.parametrize(("parts", "why"), [
    ([], "has no parts"), ([{"weight": 1.0}], "part 0 names no judge"), ([{"judge": "exact_mach"}], "did you mean 'exact_match'"),
    ([{"judge": "format", "wieght": 1.0}], "no option 'wieght'"),
    ([{"judge": "format", "low": 2, "high": 1}], "low = 2 is above"),
    ([{"judge": "format", "weight": "much"}], "weight = 'much'"),
])  # fmt: skip
def test_bad_sums(parts: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(UserError, match=why):
        make("sum", parts=parts)


def test_a_worker_that_warns_without_end_still_answers() -> None:
    """What it says beside its answers goes to a file: a pipe that nobody reads would hold 64 KiB and then stop it."""
    source = ("import sys\nfrom outdo.judges.common.worker import serve\n"
              "serve(lambda q: (sys.stderr.write('w' * 10**6), print('p' * 10**6), q)[2])\n")
    worker = Worker("loud")
    worker.command = [sys.executable, "-c", source]
    assert [worker.ask(i, 20.0) for i in range(3)] == [0, 1, 2]
    worker.command = [sys.executable, "-c", "raise ImportError('no such library')"]
    worker.close()
    with pytest.raises(UserError, match=r"loud cannot start .*no such library"):
        worker.ask(1, 20.0)
