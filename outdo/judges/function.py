"""Reward functions as users of TRL, verl, verifiers and OpenRLHF wrote them, unchanged (`functions/signatures.py`).

The score is the weighted sum of the functions' values, as in TRL: a function that gives None does not apply to the sample
and is left out of its sum. A sample on which a function raises, hangs or gives no finite number has no score, with the
reason; when too many have none, the function is broken and the run says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from pydantic import Field

from outdo import plugins
from outdo.errors import UserError, check
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.judges.functions import guard
from outdo.judges.functions.signatures import Log, Reward
from outdo.types import Score, Trajectory

_FEW = 8  # fewer samples than this say nothing about a share
_SHOWN = 80  # characters of a message or of an extra column that a reason shows


class Broken(str):
    """Why a function gave a sample no value. (None means that it did not want to.)"""


Value = float | None | Broken


class FunctionJudge(Judge):
    """The weighted sum of reward functions. `Score.parts` holds each one's own value."""

    name = "function"

    class Config(Options):
        """Options of function."""

        functions: tuple[str, ...] = ()  # "my_rewards.py:reward" or "package.module:name"
        weights: tuple[float, ...] = ()  # one for each function; empty: 1 each
        timeout_s: float = Field(default=60.0, gt=0)  # for one call, be it of a batch or of a sample
        unscored_limit: float = Field(default=0.5, ge=0, le=1)  # share of a batch on which functions may fail

    config: Config

    def __init__(self, config: Config | None = None, functions: Sequence[Callable[..., Any]] | None = None) -> None:
        super().__init__(config)
        c = self.config
        given = [plugins.load(f) for f in c.functions] if functions is None else list(functions)
        self.rewards = [Reward.of(f) for f in given]
        self.weights = c.weights or (1.0,) * len(self.rewards)
        check(len(self.weights) == len(self.rewards),
              f"judge function has {len(self.rewards)} functions and {len(self.weights)} weights; give one for each")
        names = [r.name for r in self.rewards]
        self.names = [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]
        self._metrics: dict[str, list[float]] = {}

    @classmethod
    def of(cls, functions: Sequence[Callable[..., Any]], weights: Sequence[float] = (), **options: Any) -> Self:
        """A judge from Python functions, with the options of Config."""
        return cls(cls.Config(weights=tuple(weights), **options), functions)

    def describe(self) -> str:
        """Which functions score, how they are called, and how much they weigh."""
        parts = [f"{n} ({r.style}, weight {w:g})" for n, r, w in zip(self.names, self.rewards, self.weights, strict=True)]
        return f"reward = {' + '.join(parts)}"

    def logged(self) -> dict[str, float]:
        """Means of what functions gave to log_metric since the last call."""
        out = {name: sum(values) / len(values) for name, values in self._metrics.items()}
        self._metrics = {}
        return out

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. Raises UserError for results of the wrong length, and when too many samples have no score."""
        check(bool(self.rewards), "judge function has no functions; set functions = ['my_rewards.py:reward']")
        scores = [unjudgeable(t, "prompt", "completion") for t in trajectories]
        able = [i for i, s in enumerate(scores) if s is None]
        log, judged = Log(), [trajectories[i] for i in able]
        columns = [self._values(r, n, judged, log) for r, n in zip(self.rewards, self.names, strict=True)]
        extras = {k: v for k, v in log.columns.items() if len(v) == len(judged)}
        for at, i in enumerate(able):
            said = [f"{k}={_short(v[at])}" for k, v in extras.items()]
            scores[i] = self._sum([c[at] for c in columns], said)
        self._check_share([next((v for v in values if isinstance(v, Broken)), None) for values in zip(*columns, strict=True)])
        for name, values in log.metrics.items():
            self._metrics.setdefault(name, []).extend(values)
        return [s for s in scores if s is not None]

    def _sum(self, values: Sequence[Value], said: Sequence[str]) -> Score:
        """One sample's score from its values, one for each function."""
        parts = {n: None if isinstance(v, Broken) else v for n, v in zip(self.names, values, strict=True)}
        broken = next((v for v in values if isinstance(v, Broken)), None)
        if broken is not None:
            return Score(None, str(broken), parts)
        known = [w * v for w, v in zip(self.weights, values, strict=True) if v is not None and not isinstance(v, str)]
        if not known:
            return Score(None, "no function applies to this sample", parts)
        return Score(float(sum(known)), "; ".join([*(f"{n} {v:g}" for n, v in parts.items() if v is not None), *said]), parts)

    def _check_share(self, broken: Sequence[Value]) -> None:
        failed = [b for b in broken if isinstance(b, Broken)]
        limit = self.config.unscored_limit
        if len(broken) >= _FEW and len(failed) > limit * len(broken):
            raise UserError(f"judge function could not score {len(failed)} of {len(broken)} samples; the first: {failed[0]}; "
                            f"mend the function or the data (unscored_limit = {limit:g})")

    def _values(self, reward: Reward, name: str, judged: Sequence[Trajectory], log: Log) -> list[Value]:
        """One function's value for each sample: in one call if it takes batches and does not raise, else one by one."""
        out: list[Value] = [Broken(f"{name} needs the column {', '.join(m)}, which the data does not have")
                            if (m := reward.missing(t)) else None for t in judged]
        able = [i for i, v in enumerate(out) if v is None]
        if reward.batched and able:
            tried = Log()
            try:
                values = self._call(reward, name, [judged[i] for i in able], tried)
            except UserError:
                raise
            except (Exception, guard.TimedOut):
                pass  # the samples are tried alone below: only those that fail by themselves stay without a score
            else:
                log.metrics.update(tried.metrics), log.columns.update(tried.columns)
                for i, value in zip(able, values, strict=True):
                    out[i] = _number(value, name)
                return out
        failed = 0
        for i in able:
            if len(judged) >= _FEW and failed > self.config.unscored_limit * len(judged):
                out[i] = Broken(f"{name} was not asked again: it failed on too many samples")
                continue
            try:
                out[i] = _number(self._call(reward, name, [judged[i]], log)[0], name)
            except guard.TimedOut:
                out[i] = Broken(f"{name} took longer than timeout_s = {self.config.timeout_s:g}")
            except UserError:
                raise
            except Exception as e:
                out[i] = Broken(f"{name} raised {type(e).__name__}: {_short(e)}")
            failed += isinstance(out[i], Broken)
        return out

    def _call(self, reward: Reward, name: str, batch: Sequence[Trajectory], log: Log) -> list[Any]:
        """What the function gives for the batch, as a list. Raises UserError if it does not owe that many."""
        given = guard.call(partial(reward.function, **reward.arguments(batch, log)), self.config.timeout_s)
        if isinstance(given, Mapping):  # verl's {"score", ...}, OpenRLHF's {"rewards", "scores", "extra_logs"}
            given = given.get("rewards", given.get("score", given.get("scores")))
        if not reward.batched:
            return [given]
        given = given.tolist() if hasattr(given, "tolist") else given
        many = isinstance(given, Sequence) and not isinstance(given, str)
        check(many and len(given) == len(batch), f"reward function {name} returned "
              f"{f'{len(given)} values' if many else _short(repr(given))} for {len(batch)} completions; it owes a list with one "
              "for each (None where it does not apply)")
        return list(given)


def _number(value: Any, name: str) -> Value:
    """A finite number, None, or why it is neither."""
    if value is None:
        return None
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, int | float):
        return Broken(f"{name} returned {_short(repr(value))}, which is no number")
    return float(value) if math.isfinite(value) else Broken(f"{name} returned {value}")


def _short(value: Any) -> str:
    said = " ".join(str(value).split())
    return said if len(said) <= _SHOWN else said[: _SHOWN - 1] + "…"
