"""sum: several judges with weights, gates and limits.

    [judge]
    name = "sum"
    parts = [
      { judge = "format", weight = 0.2, gate = 1.0 },
      { judge = "math", weight = 1.0 },
      { judge = "my_rewards.py:polite", weight = 0.5, low = 0.0, high = 1.0 },
    ]

Each part's value is cut to [low, high], multiplied by its weight and added. A part with `gate` must reach that value, or all
other parts count 0. Weight 0: the part is measured and never trains. A sample on which a part that counts has no score has none.
Every part's own value is logged as `reward/<name>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from outdo.errors import check
from outdo.judges.base import Judge, Options, make_judge
from outdo.plugins import Plugin, configured
from outdo.types import Asked, Score, Trajectory


class Part(Options):
    """One judge of a sum. All other keys of its table are the judge's own options."""

    judge: str  # a judge's name, or a reward function as "my_rewards.py:name"
    name: str | None = None  # under which it is logged; None: the judge's
    weight: float = 1.0
    gate: float | None = None  # value that it must reach, or the other parts count 0
    low: float = Field(default=-1e30)
    high: float = Field(default=1e30)


class Sum(Judge):
    """The weighted sum of other judges' scores. `Score.parts` holds each one's own value."""

    name = "sum"

    class Config(Options):
        """Options of sum."""

        parts: tuple[dict[str, Any], ...] = ()
        low: float = -1e30  # the sum is cut to [low, high]
        high: float = 1e30

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        check(bool(self.config.parts), 'judge sum has no parts; set parts = [{ judge = "exact_match", weight = 1.0 }, ...]')
        own = set(Part.model_fields)
        self.parts: list[Part] = []
        self.judges: list[Judge] = []
        for i, table in enumerate(self.config.parts):
            check(isinstance(table.get("judge"), str), f"judge sum, part {i} names no judge; write {{ judge = \"...\" }}")
            part = Plugin(name=f"sum, part {i}", **{k: v for k, v in table.items() if k in own and k != "name"})
            made: Part = configured("judges", part, _PartOptions).model_copy(update={"name": table.get("name")})
            check(made.low <= made.high, f"judge sum, part {i}: low = {made.low:g} is above high = {made.high:g}")
            self.parts.append(made)
            self.judges.append(make_judge(_plugin(made.judge, {k: v for k, v in table.items() if k not in own})))
        names = [p.name or j.name for p, j in zip(self.parts, self.judges, strict=True)]
        self.names = [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]
        self.flops_per_call = sum(j.flops_per_call for j in self.judges)

    def describe(self) -> str:
        """Which judges score and how much they weigh."""
        parts = [f"{p.weight:g} x {n}" + (f" (gate {p.gate:g})" if p.gate is not None else "")
                 for n, p in zip(self.names, self.parts, strict=True)]
        return f"reward = {' + '.join(parts)}"

    def lacks(self, t: Trajectory) -> list[str]:
        """See `Judge.lacks`."""
        return sorted({c for j, p in zip(self.judges, self.parts, strict=True) if _counts(p) for c in j.lacks(t)})

    def spent_flops(self) -> float:
        """See `Judge.spent_flops`."""
        return sum(j.spent_flops() for j in self.judges)

    def spent_tokens(self) -> tuple[int, float]:
        """See `Judge.spent_tokens`."""
        spent = [j.spent_tokens() for j in self.judges]
        return sum(n for n, _ in spent), sum(c for _, c in spent)

    def asks(self, t: Trajectory, completion_tokens: float, group_size: int) -> list[Asked]:
        """See `Judge.asks`."""
        return [asked for j in self.judges for asked in j.asks(t, completion_tokens, group_size)]

    def memory_bytes(self) -> float:
        """See `Judge.memory_bytes`."""
        return sum(j.memory_bytes() for j in self.judges)

    def logged(self) -> dict[str, float]:
        """See `Judge.logged`."""
        return {k: v for j in self.judges for k, v in j.logged().items()}

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`."""
        columns = [j.score(trajectories) for j in self.judges]
        return [self._sum(scores) for scores in zip(*columns, strict=True)]

    def _sum(self, scores: Sequence[Score]) -> Score:
        """One sample's."""
        own = {n: s.value for n, s in zip(self.names, scores, strict=True)}
        counted = [(p, n, s) for p, n, s in zip(self.parts, self.names, scores, strict=True) if _counts(p)]
        for _, n, s in counted:
            if s.value is None:
                return Score(None, f"{n}: {s.reason}", own)
        shut = [n for p, n, s in counted if p.gate is not None and s.value is not None and s.value < p.gate]
        total = math.fsum(p.weight * min(max(s.value, p.low), p.high) for p, n, s in counted
                          if s.value is not None and (not shut or p.gate is not None))
        said = "; ".join(f"{n} {s.value:g}" for _, n, s in counted if s.value is not None)
        answered = all(s.answered for _, _, s in counted)
        return Score(min(max(total, self.config.low), self.config.high),
                     said + (f"; only gates count: {', '.join(shut)} is below its gate" if shut else ""), own, answered)


class _PartOptions:
    """For `configured`, which wants a class with a Config."""

    Config = Part


def _counts(part: Part) -> bool:
    return part.weight != 0.0 or part.gate is not None


def _plugin(judge: str, options: dict[str, Any]) -> Plugin:
    """A judge by name or by class; a function is one of the judge `function`."""
    from outdo.judges.function import FunctionJudge
    from outdo.plugins import load

    if ":" in judge and not isinstance(load(judge), type):
        return Plugin.model_validate({"name": FunctionJudge.name, "functions": [judge], **options})
    return Plugin(name=judge, **options)
