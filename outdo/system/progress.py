"""Progress always in sight: done, left, the latest evaluation. Live in a terminal, plain lines in a pipe."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Show = Callable[[str, float, str], None]  # (stage, share of its budget done, message: of several lines, it stays in sight)
_LINE_EVERY_S = 30.0  # where there is no terminal
STATUS = "\r"  # a message that begins so is news of a step: shown where there is room, never worth a line of its own
_TICKS = 1000  # of a progress bar
_ENOUGH = 0.03  # share of a stage after which its own pace says more than the plan


class PlannedStage(Protocol):
    """What progress needs of a stage's plan."""

    @property
    def name(self) -> str: ...
    @property
    def done(self) -> bool: ...
    @property
    def weight(self) -> float:
        """Estimated seconds, evaluations included."""


class Planned(Protocol):
    """What progress needs of a run's plan."""

    @property
    def stages(self) -> Sequence[PlannedStage]: ...


def say(line: str) -> None:
    """News of something slow that is neither a stage's nor an error."""
    print(f"outdo: {line}", file=sys.stderr)


def duration(seconds: float) -> str:
    """`47 s`, `3 min 20 s`, `2 h 05 min`."""
    s = round(max(seconds, 0.0))
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60:02d} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


class Pace:
    """How far the run is and how long it will take, from what this process has done so far.

    Stages weigh as many seconds as the plan gave them: a FLOP spent on generating, which takes longer, weighs more. The
    plan's seconds are then scaled by how they turned out so far; stages well under way, one or several side by side, are
    judged by the pace that they have had since the latest of them began.
    """

    def __init__(self, plan: Planned) -> None:
        self.weights = {s.name: max(s.weight, 1e-9) for s in plan.stages}
        self.shares = {s.name: 1.0 if s.done else 0.0 for s in plan.stages}
        self.started: float | None = None  # the first news: what came before it was preparation
        self._before = self._done  # weight that earlier processes did
        self._running: set[str] = set()
        self._since, self._base = 0.0, 0.0  # when the running stages began to be these, and the weight done by then

    @property
    def _done(self) -> float:
        return sum(w * self.shares[n] for n, w in self.weights.items())

    def update(self, stage: str, share: float, now: float) -> None:
        """The stage has reached `share`."""
        share = min(share, 1.0)
        self.started = now if self.started is None else self.started
        began = stage not in self._running
        if began:  # a resumed stage begins where its checkpoint was: that part took this process no time
            self._before += self.weights[stage] * (share - self.shares[stage])
        self.shares[stage] = max(self.shares[stage], share)
        if began:
            self._running = {n for n in self._running if self.shares[n] < 1.0} | {stage}
            self._since, self._base = now, self._done

    @property
    def overall(self) -> float:
        """Share of the whole run, in [0, 1]."""
        return self._done / sum(self.weights.values())

    def left_s(self, now: float) -> float | None:
        """Seconds until the run is done; None while nothing is known."""
        left = {n: w * (1.0 - self.shares[n]) for n, w in self.weights.items()}
        done = self._done - self._before
        if self.started is None or done <= 0:
            return None
        pace = (now - self.started) / done
        own, here = self._done - self._base, sum(left[n] for n in self._running)
        if own < _ENOUGH * sum(self.weights[n] for n in self._running):
            return sum(left.values()) * pace
        return here * (now - self._since) / own + (sum(left.values()) - here) * pace


@contextmanager
def display(console: Console, plan: Planned) -> Iterator[Show]:
    """What to hand to `outdo.runs.run` as `show`."""
    pace = Pace(plan)
    if _live_output(console):
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24),
                   TextColumn("{task.percentage:>5.1f} %"), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, refresh_per_second=4) as progress:
            yield _live(progress, plan, pace)
    else:
        yield _lines(console, pace)


def _live_output(console: Console) -> bool:
    """A terminal, or a notebook that rich can draw in."""
    in_notebook = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    return (console.is_terminal or in_notebook) and not console.quiet


def _live(progress: Progress, plan: Planned, pace: Pace) -> Show:
    whole = progress.add_task("[bold]whole run", total=_TICKS, completed=round(_TICKS * pace.overall), text="")
    rows: dict[str, TaskID] = {}
    evaluated: dict[str, str] = {}  # stays in sight beside the news of the steps that follow
    for s in plan.stages:
        text = "done before" if s.done else f"about {duration(s.weight)}"
        rows[s.name] = progress.add_task(s.name, total=_TICKS, completed=_TICKS * s.done, text=text)

    def show(stage: str, share: float, message: str) -> None:
        now = time.monotonic()
        pace.update(stage, share, now)
        progress.update(rows[stage], completed=_TICKS * min(share, 1.0))
        if "\n" in message:
            progress.console.print(message, markup=False, highlight=False)
        elif message:
            if not message.startswith(STATUS):
                evaluated[stage] = message
            news = message.removeprefix(STATUS) if message.startswith(STATUS) else ""
            progress.update(rows[stage], text="  ".join(t for t in (news, evaluated.get(stage)) if t))
        left = pace.left_s(now)
        progress.update(whole, completed=_TICKS * pace.overall, text="" if left is None else f"{duration(left)} left")

    return show


def _lines(console: Console, pace: Pace) -> Show:
    printed: dict[str, float] = {}
    last: dict[str, str] = {}

    def show(stage: str, share: float, message: str) -> None:
        now = time.monotonic()
        pace.update(stage, share, now)
        passing = not message or message.startswith(STATUS)
        if passing and now - printed.get(stage, -_LINE_EVERY_S) < _LINE_EVERY_S:
            return
        if passing:
            printed[stage] = now
        if "\n" in message:
            return console.print(message, markup=False, highlight=False, soft_wrap=True)
        left = pace.left_s(now)
        said = f"  {message.removeprefix(STATUS)}" if message else ""
        tail = f"  {duration(left)} left" if passing and left is not None else ""
        line = f"{stage} {min(share, 1.0):.1%}  run {pace.overall:.1%}{said}{tail}"
        if line != last.get(stage):
            last[stage] = line
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show


@contextmanager
def counting(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """For work that counts its items: call it with (what, how many are done, how many there are)."""
    if not _live_output(console):
        yield lambda what, done, of: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, of: progress.update(task, description=what, completed=done, total=of)
