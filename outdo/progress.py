"""Progress always in sight: done, left, the latest evaluation. Live in a terminal, plain lines in a pipe."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from outdo.environment import thread_peak_flops
from outdo.plan import Plan, duration

Show = Callable[[str, float, str], None]  # (stage, share of its budget done, message: of several lines, it stays in sight)
_LINE_EVERY_S = 5.0
_TICKS = 1000  # of a progress bar
_ENOUGH = 0.03  # share of a stage after which its own pace says more than the plan


class Pace:
    """How far the run is and how long it will take, from what this process has done so far.

    Stages weigh as many seconds as the plan gave them: a FLOP spent on generating, which takes longer, weighs more. The
    plan's seconds are then scaled by how they turned out so far; stages well under way, one or several side by side, are
    judged by the pace that they have had since the latest of them began.
    """

    def __init__(self, plan: Plan) -> None:
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
def display(console: Console, plan: Plan) -> Iterator[Show]:
    """What to hand to `outdo.run.run` as `show`."""
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


def _live(progress: Progress, plan: Plan, pace: Pace) -> Show:
    whole = progress.add_task("[bold]whole run", total=_TICKS, completed=round(_TICKS * pace.overall), text="")
    rows: dict[str, TaskID] = {}
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
            progress.update(rows[stage], text=message)
        left = pace.left_s(now)
        progress.update(whole, completed=_TICKS * pace.overall, text="" if left is None else f"{duration(left)} left")

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
        if "\n" in message:
            return console.print(message, markup=False, highlight=False, soft_wrap=True)
        left = pace.left_s(now)
        tail = f"  {message}" if message else "" if left is None else f"  {duration(left)} left"
        console.print(f"{stage} {min(share, 1.0):.1%}  run {pace.overall:.1%}{tail}", markup=False, highlight=False,
                      soft_wrap=True)

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


def results(summary: dict[str, Any]) -> RenderableType:
    """summary.json's players: one row per player and decoding, one column per opponent and further split; losses, forgetting."""
    players = summary["players"]
    lost = [Text(_loss(row), no_wrap=True, overflow="ignore") for row in summary.get("losses", [])]
    read = [Text(f"{r['name']}: {forgotten(r)}", style="dim") for r in summary.get("forgetting", [])]
    if not players:
        said = f"{summary['recipe']}: done" + ("" if lost else "; nothing was measured")
        return Group(Text(said, no_wrap=True, overflow="ignore"), *lost, *read)
    main = players[0].get("split")
    cells = [((p["name"], p["decode"]), _against(p["extra"]["opponent"]) if p.get("split") == main else p["split"], p)
             for p in players]
    return Group(_pivot(cells, f"{summary['task']}: {summary['recipe']}, seed {summary['seed']}"), *lost, *read)


def _loss(row: dict[str, Any]) -> str:
    """A stage's loss in words, with 95 % intervals where there is more than one row."""
    level, change = (f"{x['value']:{sign}.3f}" + ("" if x["ci95"] is None else f" ({x['ci95'][0]:.3f} to {x['ci95'][1]:.3f})")
                     for x, sign in ((row, ""), (row["change"], "+")))
    return f"{row['stage']}: loss {level} nats a token on {row['n']} held-out rows, {change} since its start"


def forgotten(r: dict[str, Any]) -> str:
    """A row of summary.json's forgetting in words: the loss on the corpus with 95 % interval, and its change since the start."""
    said, change = f"{r['value']:.3f} nats a token on the corpus ({r['ci95'][0]:.3f} to {r['ci95'][1]:.3f})", r["change"]
    if change:
        said += f", {change['value']:+.3f} ({change['ci95'][0]:+.3f} to {change['ci95'][1]:+.3f}) since the start"
    return said


def utilisation(summary: dict[str, Any], environment: dict[str, Any]) -> str:
    """How fast all stages' updates ran on a core that they had, and which share of the peak measured at the start that is."""
    bills = list(summary["ledger"].values())
    seconds = sum(b.get("update_core_s") or b["update_s"] * (b["threads"] or environment.get("threads") or 1) for b in bills)
    rate = sum(b["flops"]["update"] for b in bills) / seconds if seconds else 0.0
    peak = thread_peak_flops(environment)
    share = f", {rate / peak:.0%} of the matrix-product peak measured at the start ({peak / 1e9:,.0f})" if peak else ""
    return f"updates: {rate / 1e9:,.0f} GFLOP/s a core{share}; {sum(b['wall_s'] for b in bills):,.0f} s for all stages"


def measured(records: Sequence[dict[str, Any]]) -> RenderableType:
    """Records of `outdo.reopen.measurements`."""
    first = records[0]
    cells = [(("model", r["decode"]), _against(r["opponent"]), r) for r in records]
    return _pivot(cells, f"{first['task']}: {first['checkpoint']}")


def _against(opponent: str) -> str:
    return "score" if opponent == "none" else f"vs {opponent}"


def _pivot(cells: Sequence[tuple[tuple[str, str], str, dict[str, Any]]], title: str) -> RenderableType:
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    sizes = sorted({c["n"] for _, _, c in cells})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    table = Table()
    for header in ("player", "decoding", *columns):
        table.add_column(header, justify="left" if header in ("player", "decoding") else "right")
    for row in dict.fromkeys(row for row, _, _ in cells):
        found = {column: c for r, column, c in cells if r == row}
        table.add_row(*row, *(_interval(found[c]) if c in found else "" for c in columns))
    # Beside the table, not in it: there they would wrap at its width.
    heading = Text(title, no_wrap=True, overflow="ignore")
    metric = {str(c.get("metric", "win")).split(" vs ")[0] for _, _, c in cells} or {"score"}
    words = {"win": "share won", "gold": "mean score by the gold judge"}
    what = " and ".join(words.get(m, m) for m in sorted(metric))
    return Group(heading, table, Text(f"{what} with 95 % interval, n = {n} prompts each", style="dim"))


def _interval(c: dict[str, Any]) -> str:
    """In percent where the score can only be one: a reward may be any number."""
    value, low, high = numbers = [c["value"], *c["ci95"]]
    if None in numbers:
        return "no score"
    if min(numbers) < 0 or max(numbers) > 1:
        return f"{value:.3g} ({low:.3g} to {high:.3g})"
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"
