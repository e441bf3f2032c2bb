"""Which tool a reward function was written for, read off the names of its parameters, and how that tool would call it.

| tool | parameters | called | gives |
|---|---|---|---|
| TRL | completions, prompts, completion_ids, columns, trainer_state, log_extra, log_metric, environments | for a batch | list |
| verl | data_source, solution_str, ground_truth, extra_info | for a sample | number, or {"score": number, ...} |
| verifiers | completion, prompt, answer, info, state, parser | for a sample | number |
| verifiers | completions, prompts, answers, infos, states, parser | for a group: all samples of a prompt | list |
| OpenRLHF | queries, prompts, labels | for a batch | list, or {"rewards": list, ...} |
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from outdo.errors import UserError, check
from outdo.types import Trajectory

_TRL = {"completions", "completion_ids", "prompts", "trainer_state", "log_extra", "log_metric", "environments"}
_VERIFIERS = {"completion", "prompt", "answer", "info", "state", "parser", "task"}
_OF_GROUPS = {"answers", "infos", "states", "tasks"}  # beside prompts and completions, which TRL's functions have as well
_GROUP = "verifiers, per group"
_OWN = ("prompt", "completion", "completion_ids")
_ABSENT = object()
_ANSWERS = ("ground_truth", "answer", "solution", "label", "labels")


@dataclass
class Log:
    """What functions say beside their values: log_metric's numbers, log_extra's columns."""

    metrics: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def metric(self, name: str, value: float) -> None:
        if math.isfinite(number := float(value)):  # what is no number has no mean
            self.metrics.setdefault(name, []).append(number)

    def extra(self, column: str, values: Sequence[Any]) -> None:
        self.columns.setdefault(column, []).extend(values)


@dataclass(frozen=True)
class Reward:
    """A reward function and how it wants to be called."""

    name: str
    function: Callable[..., Any]
    style: str  # TRL, verl, verifiers or OpenRLHF; "..., per group"
    batched: bool  # takes and gives lists
    required: frozenset[str]  # parameters without a default
    named: frozenset[str]  # all parameters
    anything: bool  # takes **kwargs
    grouped: bool = False  # called for the samples of one prompt
    objects: Mapping[str, Any] = field(default_factory=dict)  # what its rubric hands over by name: a parser, a judge, ...

    @staticmethod
    def of(function: Callable[..., Any], rubric: Mapping[str, Any] | None = None) -> Reward:
        """Read the signature. rubric: the objects of the verifiers' rubric that it comes from, None if from none.

        Raises UserError for a signature that no tool would call.
        """
        name = getattr(function, "__name__", type(function).__name__)
        check(callable(function), f"reward function {name!r} is {type(function).__name__}, which cannot be called; "
              "give a function, or an object with __call__")
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names = {p.name for p in named}
        anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
        if rubric is not None:  # verifiers' own way to tell functions of groups
            many = bool(names & (_OF_GROUPS | {"prompts", "completions"})) or "list" in str(signature.return_annotation).lower()
            style = _GROUP if many else "verifiers"
        elif {"solution_str", "ground_truth"} <= names:
            style = "verl"
        elif "queries" in names:
            style = "OpenRLHF"
        elif names & _OF_GROUPS and not names & (_TRL - {"completions", "prompts"}):
            style = _GROUP
        elif names & _TRL or (anything and not names & _VERIFIERS):
            style = "TRL"
        elif names & _VERIFIERS:
            style = "verifiers"
        else:
            raise UserError(f"reward function {name}({', '.join(sorted(names))}) fits no known signature; write def {name}"
                            "(completions, **kwargs) for a list of values (TRL), (solution_str, ground_truth, ...) (verl), "
                            "(completion, answer, ...) (verifiers) or (queries, prompts, labels) (OpenRLHF)")
        grouped = style == _GROUP or bool(getattr(function, "per_group", False))
        check(not grouped or style not in ("verl", "verifiers"), f"reward function {name} is marked per_group and takes one "
              "sample; let it take completions, a list")
        return Reward(name, function, style if not grouped or style == _GROUP else f"{style}, per group",
                      style in ("TRL", "OpenRLHF", _GROUP), frozenset(p.name for p in named if p.default is p.empty),
                      frozenset(names), anything, grouped, rubric or {})

    def missing(self, t: Trajectory) -> list[str]:
        """Columns that the function cannot do without and the row does not have."""
        given = {*t.info, *_TRL - {"environments"}, *self.objects}
        if "environment_state" in t.info:
            given.add("environments")
        if self.style.startswith("OpenRLHF"):
            given = {"queries", "prompts", "labels"}
        elif self.style == _GROUP:
            given |= {"infos", "states", "tasks", "parser"} | (set() if _answer(t.info) is _ABSENT else {"answers"})
        elif not self.batched:
            given = {k for k, v in self._sample(t).items() if v is not _ABSENT}
        return sorted(self.required - given)

    def arguments(self, trajectories: Sequence[Trajectory], log: Log) -> dict[str, Any]:
        """Keyword arguments for a batch, or for the one sample."""
        chosen: dict[str, Any]
        if self.style == _GROUP:
            samples = [self._sample(t) for t in trajectories]
            several = {"answers": ["" if s["answer"] is _ABSENT else s["answer"] for s in samples],
                       **{f"{k}s": [s[k] for s in samples] for k in ("info", "state", "task")}}
            chosen = {**several, "parser": Parser(), **_batch(trajectories, log), **self.objects}  # the row's own columns win
        elif self.style.startswith("TRL"):
            chosen = _batch(trajectories, log)
        elif self.style.startswith("OpenRLHF"):
            prompts, replies = [text(t.info["prompt"]) for t in trajectories], [text(t.info["completion"]) for t in trajectories]
            labels = [None if (answer := _answer(t.info)) is _ABSENT else answer for t in trajectories]
            chosen = {"queries": [p + r for p, r in zip(prompts, replies, strict=True)], "prompts": prompts, "labels": labels}
        else:
            (t,) = trajectories
            chosen = {k: v for k, v in self._sample(t).items() if v is not _ABSENT}
        return {k: v for k, v in chosen.items() if self.anything or k in self.named}

    def _sample(self, t: Trajectory) -> dict[str, Any]:
        i, answer = t.info, _answer(t.info)
        if self.style == "verl":
            return {"data_source": i.get("data_source", ""), "solution_str": text(i["completion"]), "ground_truth": answer,
                    "extra_info": i.get("extra_info")}
        known = {"completion": i["completion"], "prompt": i["prompt"], "answer": answer, "info": i.get("info") or {},
                 "task": i.get("task", "default"), "parser": Parser(), **self.objects}
        kept = i.get("environment_state") or {}
        if "trajectory" in kept:  # verifiers' own state, in which the environment may have changed what the row says
            known |= {k: kept[k] for k in ("answer", "info", "task") if k in kept}
        return {**i, **known, "state": {**i, **kept, **{k: v for k, v in known.items() if v is not _ABSENT}}}


def of_rubric(rubric: Any) -> list[tuple[Reward, float]]:
    """The functions of a verifiers' Rubric (or RubricGroup) with their weights; [] if it is none."""
    if isinstance(inner := getattr(rubric, "rubrics", None), Sequence):
        return [pair for r in inner for pair in of_rubric(r)]
    functions, weights = (getattr(rubric, n, getattr(rubric, f"reward_{n}", None)) for n in ("funcs", "weights"))
    if not isinstance(functions, Sequence) or not isinstance(weights, Sequence):
        return []
    objects = {"parser": getattr(rubric, "parser", None) or Parser(), **getattr(rubric, "class_objects", {})}
    return [(Reward.of(f, objects), float(w)) for f, w in zip(functions, weights, strict=True)]


def _batch(trajectories: Sequence[Trajectory], log: Log) -> dict[str, Any]:
    """What TRL gives: columns as lists, and a few things beside them."""
    keys = dict.fromkeys(k for t in trajectories for k in t.info if k not in _OWN)
    version = max((t.policy_version for t in trajectories), default=0)
    out = {k: [t.info.get(k) for t in trajectories] for k in keys}
    if "environment_state" in out:
        out["environments"] = [SimpleNamespace(**(state or {})) for state in out.pop("environment_state")]
    return {
        **out,
        "prompts": [t.info["prompt"] for t in trajectories],
        "completions": [t.info["completion"] for t in trajectories],
        "completion_ids": [completion_ids(t) for t in trajectories],
        "trainer_state": SimpleNamespace(global_step=max(version, 0), max_steps=-1, epoch=0.0, log_history=[]),
        "log_extra": log.extra,
        "log_metric": log.metric,
    }


class Parser:
    """The plainest of verifiers' parsers: the answer is the last message's text."""

    def parse(self, said: str) -> str:
        return said.strip()

    def parse_answer(self, completion: Any) -> str:
        return text(completion).strip()


def completion_ids(t: Trajectory) -> list[int]:
    """Token ids from the policy's first one on, the end token and what tools said included, as TRL gives them."""
    return [int(i) for i in t.token_ids[int(t.mask.argmax()) :]] if t.mask.any() else []


def text(said: Any) -> str:
    """The words of a string or of messages: all the prompt's or the completion's, one message a line."""
    return said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said or [])


def _answer(info: Mapping[str, Any]) -> Any:
    """The right answer, under whichever name the data has it; _ABSENT if it has none."""
    graded = info.get("reward_model")
    if isinstance(graded, Mapping) and "ground_truth" in graded:  # verl's Parquet layout
        return graded["ground_truth"]
    return next((info[name] for name in _ANSWERS if name in info), _ABSENT)
