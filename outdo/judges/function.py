"""Reward functions as users of TRL, verl, verifiers and OpenRLHF wrote them, unchanged (`functions/signatures.py`).

Reward models and other judges may stand among them. The score is the weighted sum of the functions' values, as in TRL: a
function that gives None does not apply to the sample and is left out of its sum. A sample on which a function raises, hangs or
gives no finite number has no score, with the reason; when too many have none, the function is broken and the run says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Self

from pydantic import Field

from outdo import plugins
from outdo.errors import UserError, check
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.judges.functions.signatures import Log, Reward, of_rubric
from outdo.judges.reward_model import RewardModel
from outdo.models import fetch
from outdo.plugins import Plugin
from outdo.system import user_code
from outdo.types import LARGEST_SCORE, Score, Trajectory

_FEW = 8  # fewer samples than this say nothing about a share
_SHOWN = 80  # characters of a message or of an extra column that a reason shows
_KINDS = {GeneratorType: "a generator", AsyncGeneratorType: "an asynchronous generator"}


class Broken(str):
    """Why a function gave a sample no value. (None means that it did not want to.)"""


Value = float | None | Broken
Scorer = Reward | Judge


class FunctionJudge(Judge):
    """The weighted sum of reward functions. `Score.parts` holds each one's own value."""

    name = "function"

    class Config(Options):
        """Options of function."""

        functions: tuple[str, ...] = ()  # "my_rewards.py:reward", "package.module:name", or a reward model's folder or hub id
        weights: tuple[float, ...] = ()  # one for each function; empty: 1 each; 0: measured, never trains
        timeout_s: float = Field(default=60.0, gt=0)  # for one call, be it of a batch or of a sample
        unscored_limit: float = Field(default=0.5, ge=0, le=1)  # share of a batch on which functions may fail

    config: Config

    def __init__(self, config: Config | None = None, functions: Sequence[Any] | None = None) -> None:
        super().__init__(config)
        c = self.config
        given = list(c.functions if functions is None else functions)
        weights = c.weights or (1.0,) * len(given)
        check(len(weights) == len(given),
              f"judge function has {len(given)} functions and {len(weights)} weights; give one for each")
        pairs = [(r, w * own) for f, w in zip(given, weights, strict=True) for r, own in _scorers(f)]
        self.rewards, self.weights = [r for r, _ in pairs], [w for _, w in pairs]
        self.flops_per_call = sum(r.flops_per_call for r in self.rewards if isinstance(r, Judge))
        names = [getattr(r, "label", r.name) for r in self.rewards]
        self.names = [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]
        self._metrics: dict[str, list[float]] = {}

    @classmethod
    def of(cls, functions: Sequence[Any], weights: Sequence[float] = (), **options: Any) -> Self:
        """A judge from functions, reward models, verifiers' rubrics and judges, as objects or as in Config, and its options."""
        options["weights"] = tuple(weights)
        return cls(plugins.configured("judges", Plugin(name=cls.name, **options), cls), functions)

    def describe(self) -> str:
        """Which functions score, how they are called, and how much they weigh."""
        styles = [r.style if isinstance(r, Reward) else r.name.replace("_", " ") for r in self.rewards]
        parts = [f"{n} ({s}, weight {w:g})" for n, s, w in zip(self.names, styles, self.weights, strict=True)]
        return f"reward = {' + '.join(parts)}" if parts else ""

    def lacks(self, t: Trajectory) -> list[str]:
        """See `Judge.lacks`: the parameters of functions that weigh something."""
        weighing = [r for r, w in zip(self.rewards, self.weights, strict=True) if w and isinstance(r, Reward)]
        return sorted({name for r in weighing for name in r.missing(t)})

    def spent_flops(self) -> float:
        """See `Judge.spent_flops`."""
        return sum(r.spent_flops() for r in self.rewards if isinstance(r, Judge))

    def memory_bytes(self) -> float:
        """See `Judge.memory_bytes`."""
        return sum(r.memory_bytes() for r in self.rewards if isinstance(r, Judge))

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
        broken = [Broken(s.reason) for i, s in enumerate(scores) if s and trajectories[i].info.get("environment_error")]
        log, judged = Log(), [trajectories[i] for i in able]
        columns = [self._values(r, n, judged, log) for r, n in zip(self.rewards, self.names, strict=True)]
        extras = {k: v for k, v in log.columns.items() if len(v) == len(judged)}
        for at, i in enumerate(able):
            said = [f"{k}={_short(v[at])}" for k, v in extras.items()]
            scores[i] = self._sum([c[at] for c in columns], said)
        self._check_share([*broken, *(self._broken(values) for values in zip(*columns, strict=True))])
        for name, values in log.metrics.items():
            self._metrics.setdefault(name, []).extend(values)
        return [s for s in scores if s is not None]

    def _sum(self, values: Sequence[Value], said: Sequence[str]) -> Score:
        """One sample's score from its values, one for each function."""
        parts = {n: None if isinstance(v, Broken) else v for n, v in zip(self.names, values, strict=True)}
        broken = self._broken(values)
        if broken is not None:
            return Score(None, str(broken), parts)
        known = [w * v for w, v in zip(self.weights, values, strict=True) if w and v is not None and not isinstance(v, str)]
        if not known:
            return Score(None, "no function applies to this sample", parts)
        total = float(sum(known))
        if not abs(total) <= LARGEST_SCORE:
            return Score(None, f"the weighted sum is {total:g}; a reward is at most {LARGEST_SCORE:g}", parts)
        return Score(total, "; ".join([*(f"{n} {v:g}" for n, v in parts.items() if v is not None), *said]), parts)

    def _broken(self, values: Sequence[Value]) -> Broken | None:
        """The first failure of a function that weighs something."""
        return next((v for v, w in zip(values, self.weights, strict=True) if w and isinstance(v, Broken)), None)

    def _check_share(self, broken: Sequence[Value]) -> None:
        failed = [b for b in broken if isinstance(b, Broken)]
        limit = self.config.unscored_limit
        if len(broken) >= _FEW and len(failed) > limit * len(broken):
            raise UserError(f"judge function could not score {len(failed)} of {len(broken)} samples; the first: {failed[0]}; "
                            f"mend the function or the data (unscored_limit = {limit:g})")

    def _values(self, reward: Scorer, name: str, judged: Sequence[Trajectory], log: Log) -> list[Value]:
        """One function's value for each sample: in one call if it takes batches and does not raise, else one by one."""
        if isinstance(reward, Judge):
            with user_code.guarded():
                return [Broken(s.reason) if s.value is None else s.value for s in reward.score(judged)]
        out: list[Value] = [Broken(f"{name} needs the column {', '.join(m)}, which the data does not have")
                            if (m := reward.missing(t)) else None for t in judged]
        able = [i for i, v in enumerate(out) if v is None]
        units = [[i] for i in able]
        if reward.grouped:
            by_prompt: dict[str, list[int]] = {}
            for i in able:
                by_prompt.setdefault(judged[i].prompt_id, []).append(i)
            units = list(by_prompt.values())
        elif reward.batched and able:
            tried = Log()
            try:
                values = self._call(reward, name, [judged[i] for i in able], tried)
            except UserError:
                raise
            except (Exception, user_code.TimedOut):
                pass  # the samples are tried alone below: only those that fail by themselves stay without a score
            else:
                log.metrics.update(tried.metrics), log.columns.update(tried.columns)
                for i, value in zip(able, values, strict=True):
                    out[i] = _number(value, name)
                return out
        self._one_by_one(reward, name, judged, units, out, log)
        return out

    def _one_by_one(self, reward: Reward, name: str, judged: Sequence[Trajectory], units: Sequence[Sequence[int]],
                    out: list[Value], log: Log) -> None:
        """Fill in `out` a unit (a sample, or a group) at a time; a function that fails too often is not asked again."""
        failed = 0
        for unit in units:
            why = f"{name} was not asked again: it failed on too many samples"
            if len(judged) < _FEW or failed <= self.config.unscored_limit * len(judged):
                try:
                    for i, value in zip(unit, self._call(reward, name, [judged[i] for i in unit], log), strict=True):
                        out[i] = _number(value, name)
                    failed += sum(isinstance(out[i], Broken) for i in unit)
                    continue
                except user_code.TimedOut:
                    why = f"{name} took longer than timeout_s = {self.config.timeout_s:g}"
                except UserError:
                    raise
                except Exception as e:
                    why = f"{name} raised {type(e).__name__}: {_short(e)}"
            for i in unit:
                out[i] = Broken(why)
            failed += len(unit)

    def _call(self, reward: Reward, name: str, batch: Sequence[Trajectory], log: Log) -> list[Any]:
        """What the function gives for the batch, as a list. Raises UserError if it does not owe that many."""
        given = user_code.call(partial(reward.function, **reward.arguments(batch, log)), self.config.timeout_s)
        if isinstance(given, Mapping):  # verl's {"score", ...}, OpenRLHF's {"rewards", "scores", "extra_logs"}
            given = given.get("rewards", given.get("score", given.get("scores")))
        lazy = isinstance(given, Iterator | AsyncGeneratorType)  # yield in place of return, map(), zip()
        wanted = f"a list of {len(batch)} numbers, one per completion" if reward.batched else "one number"
        check(not lazy, f"reward function {name} returned {_KINDS.get(type(given), type(given).__name__)}; return {wanted}")
        if not reward.batched:
            return [given]
        given = given.tolist() if hasattr(given, "tolist") else given
        many = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        check(many and len(given) == len(batch), f"reward function {name} returned "
              f"{f'{len(given)} values' if many else _short(given, repr)} for {len(batch)} completions; return {wanted} "
              "(None where it does not apply)")
        return list(given)


def _scorers(what: Any) -> Sequence[tuple[Scorer, float]]:
    """What one entry of `functions` stands for, with the weights of its own: a rubric holds several functions."""
    if isinstance(what, str):
        model = ":" not in what and fetch.is_checkpoint(what)
        return _scorers(RewardModel(RewardModel.Config(model=what)) if model else plugins.load(what))
    if isinstance(what, Judge):
        return [(what, 1.0)]
    if hasattr(what, "parameters") and hasattr(what, "config"):  # a model of transformers, compiled or not
        return [(RewardModel.of(what), 1.0)]
    return of_rubric(what) or [(Reward.of(what), 1.0)]


def _number(value: Any, name: str) -> Value:
    """A finite number of reasonable size, None, or why it is neither."""
    if value is None:
        return None
    try:
        plain = value.item() if hasattr(value, "item") else value  # of numpy or torch
        if isinstance(plain, int | float | Decimal | Fraction) and abs(number := float(plain)) <= LARGEST_SCORE:
            return number
    except (ValueError, RuntimeError, OverflowError):  # an array of several, a signalling NaN, 10**400
        plain = value
    real = isinstance(plain, int | float | Decimal | Fraction)
    why = f"; a reward is a finite number of at most {LARGEST_SCORE:g}" if real else ", which is no number"
    return Broken(f"{name} returned {_short(value, repr)}{why}")


def _short(value: Any, text: Callable[[Any], str] = str) -> str:
    try:
        said = " ".join(text(value).split())
    except Exception:  # integers of thousands of digits, objects of the user's
        return f"{type(value).__name__} that cannot be printed"
    return said if len(said) <= _SHOWN else said[: _SHOWN - 1] + "…"
