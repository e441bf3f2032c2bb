"""Evaluate a policy or a reference player on a task: the same prompts and the same random numbers for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from outdo.errors import check
from outdo.evaluation.stats import best_of_k, interval, majority, mean_interval, pass_at_k
from outdo.types import LARGEST_SCORE, Prompt, Score, Trajectory, Usage


class Measurable(Protocol):
    """The part of a task that evaluation needs (see `outdo.tasks.base.Task`)."""

    headline: str

    def metrics(self, trajectories: Sequence[Trajectory]) -> Mapping[str, np.ndarray]: ...


Play = Callable[[Sequence[Prompt]], tuple[list[Trajectory], Usage]]
Scorer = Callable[[Sequence[Trajectory]], list[Score]]
_VOTERS = 3  # fewer answers have no majority
_CHOICES = (4, 16, 64, 256)


@dataclass(frozen=True)
class Measurement:
    """One player against one opponent on n prompts.

    Example: metric "win", value 0.87, ci95 (0.85, 0.89), n 1000, items [1, 1, 0, ...], extra {"illegal": 0.02}.
    """

    metric: str  # the task's headline
    value: float
    ci95: tuple[float, float]
    n: int  # distinct prompts that could be scored
    items: np.ndarray  # the headline per distinct prompt, NaN where it could not be measured
    rows: int  # prompts asked, copies included
    share: bool  # whether every single answer counts 0 or 1, so that the value is a share
    answers: np.ndarray  # the headline per trajectory
    extra: dict[str, float | None]  # means of the task's other metrics, None where undefined everywhere
    extra_ci95: dict[str, tuple[float, float]]  # of those among them that are scores: pass@k, best@k, majority@n
    trajectories: list[Trajectory]
    usage: Usage
    parts: dict[str, float]  # mean of each reward function's own value
    chosen: dict[str, np.ndarray]  # best@k and majority@n, per distinct prompt
    rewards: np.ndarray | None = None  # the training judge's score per distinct prompt, for paired comparisons

    def record(self) -> dict[str, Any]:
        """JSON-serialisable, trajectories left out; None where a number is not finite (nobody could be scored)."""
        value, *ci95 = (x if np.isfinite(x) else None for x in (self.value, *self.ci95))
        items = _rounded(self.items)
        return {"metric": self.metric, "value": value, "ci95": ci95, "n": self.n, "rows": self.rows, "share": self.share,
                "extra": {**self.extra, **({"parts": self.parts} if self.parts else {})}, "extra_ci95": self.extra_ci95,
                "items": items, "chosen": {k: _rounded(x) for k, x in self.chosen.items()},
                **({} if self.rewards is None else {"reward_items": _rounded(self.rewards)})}


def measure(task: Measurable, play: Play, prompts: Sequence[Prompt], scorers: Mapping[str, Scorer]) -> Measurement:
    """Let `play` answer the prompts, each as often as the others, answers to one prompt side by side.

    scorers: judges whose scores stand beside the task's metrics, by name: the headline may be one of them. With several
    answers a prompt counts with their mean, and `extra` has, for k = 4, 16, ... up to their number: pass@k, the share of prompts
    that k answers solve (a headline of 1); best@k, the headline of the best of k answers by the training judge, `reward`; and
    majority@n, that of the answer given most often, where answers are text. The last two are what a judge or a vote buys
    without any training, for k times the cost of an answer.
    """
    trajectories, usage = play(prompts)
    columns = dict(task.metrics(trajectories))
    parts: dict[str, float] = {}
    for name, scorer in scorers.items():
        scores = scorer(trajectories)
        columns[name] = np.array([np.nan if s.value is None else s.value for s in scores], np.float64)
        bad = [s.value for s in scores if s.value is not None and not abs(s.value) <= LARGEST_SCORE]
        check(not bad, f"the {name} judge scored an answer {bad[:1]}; expected a finite number of at most {LARGEST_SCORE:g}, "
              "or None")
        parts |= part_means(scores)
        usage += Usage(judge_calls=len(trajectories))
    answers_PK = np.asarray(columns[task.headline], np.float64).reshape(len(prompts), -1)
    which = _distinct(prompts)
    items = _per_prompt(_row_means(answers_PK), which)
    value, low, high, n = interval(items)
    extra = {k: _mean(v) for k, v in columns.items() if k != task.headline or k in scorers}
    K = answers_PK.shape[1]
    several = {f"pass@{k}": pass_at_k(answers_PK, k) for k in (1, 4, 16, 64, 256) if 1 < K >= k}
    chosen = _chosen(answers_PK, columns.get("reward"), trajectories)
    several |= chosen
    extra |= {name: _mean(x) for name, x in several.items()}
    intervals = {name: ci95 for name, x in several.items() if np.isfinite(ci95 := interval(_per_prompt(x, which))[1:3]).all()}
    rewards = _row_means(columns["reward"].reshape(len(prompts), -1)) if "reward" in columns else None
    share = bool(np.isin(answers_PK[~np.isnan(answers_PK)], (0.0, 1.0)).all())
    return Measurement(task.headline, value, (low, high), n, items, len(prompts), share, answers_PK.ravel(), extra, intervals,
                       trajectories, usage, parts, {name: _per_prompt(x, which) for name, x in chosen.items()},
                       None if rewards is None else _per_prompt(rewards, which))


def _chosen(answers_PK: np.ndarray, reward: np.ndarray | None, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """The headline of the answer to each prompt that the training judge, or a vote, chooses among several. [P] each"""
    P, K = answers_PK.shape
    out = {f"best@{k}": best_of_k(reward.reshape(P, K), answers_PK, k) for k in _CHOICES if reward is not None and k <= K}
    said = [_reply(t) for t in trajectories]
    if K >= _VOTERS and None not in said:
        out[f"majority@{K}"] = majority(np.array(said).reshape(P, K), answers_PK)
    return out


def part_means(scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each reward function's own value over the samples that it scored, whatever its weight."""
    values: dict[str, list[float]] = {}
    for s in scores:
        for name, value in s.parts.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 4) for x in values]


def _reply(t: Trajectory) -> str | None:
    """What a reply says, for a vote: without the spaces around it. None where an episode is no text."""
    completion = t.info.get("completion")
    if isinstance(completion, list):  # messages: the last one is the answer
        completion = completion[-1].get("content") if completion else None
    return completion.strip() if isinstance(completion, str) else None


def _distinct(prompts: Sequence[Prompt]) -> np.ndarray:
    """[P] the number of each prompt among the distinct ones, in order of first appearance."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(np.asarray(p.token_ids).tobytes(), len(seen)) for p in prompts], np.int64)


def _per_prompt(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Means over the copies of each prompt: copies are not independent, and ten of one prompt say as much as one."""
    if not len(values) or which.max() + 1 == len(values):
        return values
    padded = np.full((which.max() + 1, int(np.bincount(which).max())), np.nan)
    place = dict.fromkeys(range(len(padded)), 0)
    for i, w in enumerate(which.tolist()):
        padded[w, place[w]] = values[i]
        place[w] += 1
    return _row_means(padded)


def _row_means(values_PK: np.ndarray) -> np.ndarray:
    """Means of the values that are not NaN [P]; NaN where there are none."""
    known = ~np.isnan(values_PK)
    sums, counts = np.where(known, values_PK, 0.0).sum(1), known.sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _mean(values: np.ndarray) -> float | None:
    mean, _, _, n = mean_interval(values)
    return mean if n else None
