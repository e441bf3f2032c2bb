"""The judge from labelled examples: a classifier on a real model's features, and a server's model that is shown some of them.

Run: .venv/bin/python -m pytest tests/judges/test_examples.py   (about 20 s on one core)
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real

from outdo.errors import UserError
from outdo.judges import llm
from outdo.judges.examples import Examples, _folds
from outdo.types import Finish, Trajectory

GOOD = ["wonderful", "excellent", "delightful", "superb", "charming", "brilliant", "lovely", "fantastic"]
BAD = ["terrible", "awful", "dreadful", "horrible", "disgusting", "miserable", "poor", "boring"]
THINGS = ["film", "meal", "hotel", "book", "concert", "trip", "play", "song"]


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    rng, out = random.Random(seed), []
    for i in range(n):
        good = i % 2 == 0
        thing, word = rng.choice(THINGS), rng.choice(GOOD if good else BAD)
        out.append({"prompt": f"How was the {thing}? {i}", "completion": f" The {thing} was {word}.", "label": good})
    return out


def write(folder: Path, some: list[dict[str, Any]]) -> str:
    file = folder / "labelled.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in some), encoding="utf-8")
    return str(file)


def said(prompt: str, text: str) -> Trajectory:
    ids = np.arange(4)
    return Trajectory("p", 0, ids, ids >= 2, np.zeros(4, np.float32), 0, Finish.STOP, {"prompt": prompt, "completion": text})


def judge(data: str, **options: Any) -> Examples:
    return Examples(Examples.Config(data=data, model=str(real.smollm2()), **options))


def test_fifty_labels_make_a_judge_that_knows_how_good_it_is(tmp_path: Path) -> None:
    made = judge(write(tmp_path, rows(50)))
    a = made.agreement
    assert a.n == 50 and a.accuracy > 0.85 and a.majority == 0.5 and a.auc_ci95[0] > 0.8
    assert "of 50 labels that it has not seen (always the commoner one: 50%)" in made.describe()
    unseen = rows(100, seed=1)
    scores = made.score([said(r["prompt"], r["completion"]) for r in unseen])
    right = np.mean([(s.value > 0.5) == r["label"] for s, r in zip(scores, unseen, strict=True)])  # type: ignore[operator]
    assert a.ci95[0] <= right, "what was measured is not better than what is true"
    assert made.spent_flops() > 0.0


def test_labels_that_mean_nothing_agree_with_nothing(tmp_path: Path) -> None:
    some = rows(60)
    for r, label in zip(some, random.Random(3).choices((True, False), k=60), strict=True):
        r["label"] = label
    a = judge(write(tmp_path, some)).agreement
    assert a.accuracy < 0.65 and a.auc < 0.65 and a.ci95[0] < 0.5, "nothing is measured on labels that trained"


def test_rows_of_one_prompt_are_never_on_both_sides() -> None:
    fold = _folds(["a", "b", "a", "c", "b", "d", "e", "f", "a"])
    assert fold[0] == fold[2] == fold[8] and fold[1] == fold[4] and len(set(fold.tolist())) == 5


def test_a_server_is_shown_some_and_measured_on_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def ask(self: Any, requests: list[dict[str, Any]]) -> list[str]:
        texts = [r["messages"][-1]["content"] for r in requests]
        shown.extend(texts)
        last = [re.findall(r"<answer-\w+>\n(.*?)\n</answer", t, re.DOTALL)[-1] for t in texts]
        return [f"I see.\nVERDICT verdict: {int(any(w in text for w in GOOD))}" for text in last]

    monkeypatch.setattr(llm.Server, "ask", ask)
    made = judge(write(tmp_path, rows(30)), by="llm", shots=6)
    assert made.agreement.n == 24 and made.agreement.accuracy == 1.0
    assert all(t.count("VERDICT: ") == 6 for t in shown), "six examples stand before what is judged"
    (score,) = made.score([said("How was it?", "It was awful.")])
    assert score.value == 0.0


@pytest.mark.parametrize(("change", "why"), [
    (lambda r: r[:4], "label at least 10"), (lambda r: [{**x, "label": True} for x in r], "all labels say good"),
    (lambda r: [{**r[0], "label": "maybe"}, *r[1:]], "row 0: column label holds 'maybe'"),
    (lambda r: [{"prompt": "a", "label": True}, *r[1:]], "no prompt or no completion"),
])  # fmt: skip
def test_examples_that_cannot_be_used_are_one_line(tmp_path: Path, change: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        judge(write(tmp_path, change(rows(20)))).score([])
    with pytest.raises(UserError, match="judge examples has no data"):
        Examples()
