"""Answers to reasoning-gym items, graded by the library's own scorers, strictly.

The library's base scorer pays len(answer) / len(reply) for any reply that contains the right answer, and some scorers pick
it out of a longer text: a policy can list guesses and be paid. `strict` gives 1 or 0: the right answer itself, or another
one that the library gives full marks and that does not merely contain the right one. `partial` is the library's number.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from outdo.errors import UserError
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.types import Score, Trajectory

_FULL = 1.0 - 1e-9
_ONLY_EXACT = {"game_of_life_halting"}  # its scorer (0.1.25) gives full marks to any text that is not empty


class ReasoningGymJudge(Judge):
    """Score in [0, 1]. A reply without an answer, or one that the scorer cannot read, scores 0."""

    name = "reasoning_gym"

    class Config(Options):
        """Options of reasoning_gym."""

        scorer: Literal["strict", "partial"] = "strict"

    config: Config

    def describe(self) -> str:
        """See `Judge.describe`."""
        return "" if self.config.scorer == "strict" else "reasoning_gym pays part of the score for containing the answer"

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        return [self._one(t) for t in trajectories]

    def _one(self, t: Trajectory) -> Score:
        if (no := unjudgeable(t, "item", "question", "answer_tag", "completion")) is not None:
            return no
        item = t.info["item"]
        dataset, entry = _entry(json.dumps({k: item[k] for k in ("dataset", "size", "seed", "options")}), item["index"])
        if entry["question"] != t.info["question"]:
            return Score(None, "the item cannot be made again: it depends on PYTHONHASHSEED or on the library's version")
        answer = extract(_text(t.info["completion"]), t.info["answer_tag"])
        if answer is None:
            return Score(0.0, f"no <{t.info['answer_tag']}>", answered=False)
        marks = _marks(dataset, answer, entry)
        if marks is None:
            return Score(None, "the scorer fails on its own answer")
        if self.config.scorer == "partial":
            return Score(marks, f"answered {answer!r}")
        return Score(float(strict(item["dataset"], answer, entry["answer"], marks)), f"answered {answer!r}")


def strict(name: str, answer: str, gold: str | None, marks: float) -> bool:
    """Right, and not merely because the right answer stands somewhere in it."""
    if gold is not None and answer.strip() == str(gold).strip():
        return True
    if name in _ONLY_EXACT or (gold is not None and str(gold).strip() in answer):
        return False
    return marks >= _FULL


def extract(text: str, tag: str) -> str | None:
    """What stands in the last pair of tags, or the whole text if tag is empty; None if there is no such pair."""
    if not tag:
        return text.strip()
    found = re.findall(f"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, re.DOTALL)
    return str(found[-1]).strip() if found else None


def _text(completion: Any) -> str:
    """The words of a completion, the last message's if it is a conversation."""
    return str(completion if isinstance(completion, str) else (completion[-1].get("content") or "") if completion else "")


def _marks(dataset: Any, answer: str, entry: Mapping[str, Any]) -> float | None:
    """The library's number; 0 where only this answer makes the scorer fail, None where its own answer does as well."""
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:
        try:
            dataset.score_answer(entry["answer"], entry)
        except Exception:
            return None
        return 0.0


@functools.lru_cache(4096)
def _entry(source: str, index: int) -> tuple[Any, Mapping[str, Any]]:
    """The dataset and its item, made again: metadata is not all JSON, and does not belong into what is kept of a rollout."""
    dataset = _dataset(source)
    return dataset, dataset[index]


@functools.lru_cache(16)
def _dataset(source: str) -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise UserError("judge reasoning_gym takes the package reasoning-gym; install it: pip install 'outdo[llm]'") from None
    s = json.loads(source)
    if s["dataset"] == "composite":
        from reasoning_gym.composite import DatasetSpec

        s["options"]["datasets"] = [DatasetSpec(**spec) for spec in s["options"]["datasets"]]
    return reasoning_gym.create_dataset(s["dataset"], seed=s["seed"], size=s["size"], **s["options"])
