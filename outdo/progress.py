"""Progress always in sight: what is done, what is left, the latest evaluation. A live display, or plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from outdo.plan import Plan, duration

Show = Callable[[str, float, str], None]  # (stage, share of its budget done, message)
_LINE_EVERY_S = 5.0
_ENOUGH = 0.03  # share of a stage after which its own pace says more than the plan


class Pace:
    """How far the run is and how long it will take, from what this process has done so far.

    Stages weigh as many seconds as the plan gave them: so a FLOP spent on generating, which takes longer, weighs more. The
    plan's seconds are then scaled by how they turned out so far; a stage well under way is judged by its own pace.
    """

    def __init__(self, plan: Plan, now: float) -> None:
        self.weights = {s.name: max(s.weight, 1e-9) for s in plan.stages}
        self.shares = {s.name: 1.0 if s.done else 0.0 for s in plan.stages}
        self.started = now
        self._before = sum(self.weights[s.name] for s in plan.stages if s.done)  # weight that earlier processes did
        self._stage = ""
        self._stage_started, self._stage_share = now, 0.0

    def update(self, stage: str, share: float, now: float) -> None:
        """The stage has reached `share`."""
        share = min(share, 1.0)
        if stage != self._stage:
            # A resumed stage begins where its checkpoint was: that part took this process no time.
            self._stage, self._stage_started, self._stage_share = stage, now, share
            self._before += self.weights[stage] * share
        self.shares[stage] = max(self.shares[stage], share)

    @property
    def overall(self) -> float:
        """Share of the whole run, in [0, 1]."""
        done = sum(w * self.shares[n] for n, w in self.weights.items())
        return done / sum(self.weights.values())

    def left_s(self, now: float) -> float | None:
        """Seconds until the run is done; None while nothing is known."""
        left = {n: w * (1.0 - self.shares[n]) for n, w in self.weights.items()}
        done = sum(self.weights[n] * s for n, s in self.shares.items()) - self._before
        if done <= 0:
            return None
        pace = (now - self.started) / done
        here, own = self._stage, self.shares[self._stage] - self._stage_share
        if own < _ENOUGH:
            return sum(left.values()) * pace
        own_left = (1.0 - self.shares[here]) * (now - self._stage_started) / own
        return own_left + sum(w for n, w in left.items() if n != here) * pace


@contextmanager
def display(console: Console, plan: Plan) -> Iterator[Show]:
    """What to hand to `outdo.run.run` as `show`."""
    pace = Pace(plan, time.monotonic())
    if console.is_terminal:
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.percentage:>5.1f} %"),
                      TextColumn("{task.fields[text]}"), console=console, refresh_per_second=4) as progress:
            yield _live(progress, plan, pace)
    else:
        yield _lines(console, pace)


def _live(progress: Progress, plan: Plan, pace: Pace) -> Show:
    whole = progress.add_task("[bold]whole run", total=1.0, completed=pace.overall, text="")
    rows: dict[str, TaskID] = {}
    for s in plan.stages:
        text = "done before" if s.done else f"about {duration(s.weight)}"
        rows[s.name] = progress.add_task(s.name, total=1.0, completed=1.0 if s.done else 0.0, text=text)

    def show(stage: str, share: float, message: str) -> None:
        now = time.monotonic()
        pace.update(stage, share, now)
        progress.update(rows[stage], completed=min(share, 1.0), **({"text": message} if message else {}))
        left = pace.left_s(now)
        text = "" if left is None else f"{duration(left)} left" if pace.overall < 1.0 else duration(now - pace.started)
        progress.update(whole, completed=pace.overall, text=text)

    return show


def _lines(console: Console, pace: Pace) -> Show:
    printed: dict[str, float] = {}

    def show(stage: str, share: float, message: str) -> None:
        now = time.monotonic()
        pace.update(stage, share, now)
        if not message and now - printed.get(stage, -_LINE_EVERY_S) < _LINE_EVERY_S:
            return
        if not message:
            printed[stage] = now
        left = pace.left_s(now)
        tail = f"  {message}" if message else "" if left is None else f"  {duration(left)} left"
        console.print(f"{stage} {min(share, 1.0):.1%}  run {pace.overall:.1%}{tail}", markup=False, highlight=False,
                      soft_wrap=True)

    return show
