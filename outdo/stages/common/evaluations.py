"""How a stage is evaluated along its way: scores on held-out prompts, loss on held-out rows, forgetting on a corpus.

Results go to evaluations.jsonl, forgetting.jsonl, rollouts.jsonl and the trackers; their cost is charged to no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from outdo.evaluation import forgetting
from outdo.evaluation.judging import recognises_wins
from outdo.evaluation.loss import DECODE, heldout_loss
from outdo.evaluation.measure import Measurement, measure
from outdo.forecast import store as forecasts
from outdo.system import files
from outdo.types import Prompt, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop

DECODES = (("sampled", 1.0), ("greedy", 0.0))


class Evaluations:
    """The evaluations of one stage. done: how many of the recipe's points are behind it."""

    def __init__(self, loop: Loop, done: int = 0) -> None:
        self.loop, self.run, self.done = loop, loop.run, done

    @property
    def points(self) -> int:
        """How many there are along the stage; the last is its end."""
        return self.run.recipe.evaluation.points

    def when_due(self, spent: float) -> None:
        """Evaluate if the share of the budget that is spent has passed the next point before the end."""
        due = int(min(spent, 1.0) * self.points + 1e-9)
        if due > self.done and spent < 1.0:
            self.evaluate(due)

    def finish(self) -> None:
        """The evaluation at the stage's end, unless an earlier process came that far."""
        if self.done < self.points:
            self.evaluate(self.points)

    def evaluate(self, point: int) -> None:
        """Evaluate at one point: 0 is before the first step.

        Sampled and greedy, against the first opponent; at the end against all opponents, on the further splits and the corpus.
        The root of a tree is evaluated on these before its first step as well.
        """
        self.done = point
        run, name, e = self.run, self.loop.name, self.run.recipe.evaluation
        last, root = point >= self.points, point == 0 and run.recipe.parent(name) is None
        if self.loop.heldout_rows:
            self._measure_loss(last)
        if self.loop.measure_rows is not None:
            self._measure_rows(self.loop.measure_rows, last)
        if run.corpus and (last or root):
            self._measure_forgetting(run.corpus, last)
        if not run.heldout or not self.loop.config.writes:
            return
        if point == 0 and (rows := self._inherited()):
            for row in rows:
                files.append_line(self._file("evaluations"), {**row, "step": 0, "point": 0, "flops": 0.0, "last": False})
                self._track(0, row["decode"], row["opponent"], {"value": row["value"], **_flat(row["extra"])})
            return
        self.loop.engine.load(self.loop.trainer.steps)
        opponents = (e.opponents or run.task.opponents) if last else run.task.opponents[:1]
        tried = [(e.split, run.heldout, opponent) for opponent in opponents]
        tried += [(split, prompts, opponents[0]) for split, prompts in run.further.items() if last or root]
        recognised = recognises_wins(self.loop.model, run.dtype, run.pairs, run.win_id) if run.win_id is not None else None
        for split, prompts, opponent in tried:
            for decode, temperature in DECODES:
                m = self._measure(split, prompts, opponent, decode, temperature, recognised, last)
                if last and (split, opponent) == (e.split, opponents[0]):
                    self._keep_examples(m, decode)
        self.loop.judge.logged()  # what functions logged here belongs to no step
        self._forecast(last)

    def _forecast(self, last: bool) -> None:
        """Where the stage will end, or at its end where it did -> forecasts.jsonl."""
        loop = self.loop
        found = forecasts.note(loop.folder, loop.step, self.done, loop.spent, last)
        if found is not None:
            low, high = found.band.ci95
            self.run.show(loop.name, loop.spent, f"{found.held.name} forecasts {found.value:.3g} [{low:.3g}, {high:.3g}]")

    def _measure(self, split: str, prompts: Sequence[Prompt], opponent: str, decode: str, temperature: float,
                 recognised: dict[str, Any] | None, last: bool) -> Measurement:
        """Scores on one split against one opponent, decoded one way -> evaluations.jsonl."""
        loop, main = self.loop, split == self.run.recipe.evaluation.split
        samples = self.run.recipe.evaluation.samples if temperature else 1

        def sample(prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Usage]:
            return loop.rollout(prompts, samples, temperature, opponent, seed=1)

        m = measure(loop.task, sample, prompts, {"reward": loop.judge.score, "gold": self.run.gold.score})
        record = m.record()
        files.append_line(self._file("evaluations"), {
            "step": loop.step, "point": self.done, "flops": loop.ledger.train.flops, "last": last, "split": split,
            "decode": decode, "opponent": opponent, **record, "judging": recognised})
        self._track(loop.step, ("" if main else f"{split}/") + decode, opponent, {"value": m.value, **_flat(record["extra"])})
        judging = Usage(judge_flops=loop.judge.spent_flops() + self.run.gold.spent_flops())
        for tokens, cost in (loop.judge.spent_tokens(), self.run.gold.spent_tokens()):
            judging += Usage(judge_tokens=tokens, judge_cost=cost)
        loop.ledger.book(loop.step, "evaluate", m.usage + judging, loop.clock.read())
        against = ("" if opponent == "none" else f" vs {opponent}") + ("" if main else f", {split}")
        self.run.show(loop.name, loop.spent, f"{decode} {_said(m)}{against}")
        return m

    def _inherited(self) -> list[dict[str, Any]]:
        """The last evaluation of the stage that this one starts from: the same weights on the same prompts.

        Empty if somebody else judges or generates here than there.
        """
        recipe, parent = self.run.recipe, self.run.recipe.parent(self.loop.name)
        if parent is None or not recipe.alike(self.loop.name, parent):
            return []
        rows = files.read_lines(self.run.folder / "stages" / parent / "evaluations.jsonl")
        own = (recipe.evaluation.split, self.run.task.opponents[0])
        return [r for r in rows if r["last"] and r["decode"] != DECODE and (r.get("split", own[0]), r["opponent"]) == own]

    def _measure_loss(self, last: bool) -> None:
        """The loss on held-out rows -> evaluations.jsonl."""
        loop = self.loop
        record, usage = heldout_loss(loop.model, self.run.dtype, loop.heldout_rows, loop.config.optimizer.micro_tokens)
        files.append_line(self._file("evaluations"), {
            "step": loop.step, "point": self.done, "flops": loop.ledger.train.flops, "last": last,
            "decode": DECODE, "opponent": loop.task.opponents[0], **record, "judging": None})
        loop.trackers.log(loop.step, {"value": record["value"]}, f"evaluation/{DECODE}/")
        loop.ledger.book(loop.step, "evaluate", usage, loop.clock.read())
        self.run.show(loop.name, loop.spent, f"held-out loss {record['value']:.3f} nats a token")

    def _measure_rows(self, measure_rows: Callable[[], tuple[dict[str, Any] | None, Usage]], last: bool) -> None:
        """What else the stage measures on rows that never train -> heldout.jsonl."""
        loop = self.loop
        record, usage = measure_rows()
        loop.ledger.book(loop.step, "evaluate", usage, loop.clock.read())
        if record is None:
            return
        files.append_line(self._file("heldout"), {"step": loop.step, "point": self.done, "last": last, **record})
        loop.trackers.log(loop.step, {k: v for k, v in record.items() if isinstance(v, float)}, "heldout/")
        self.run.show(loop.name, loop.spent, f"{record['metric'].replace('_', ' ')} {record['value']:.1%} on held-out rows")

    def _measure_forgetting(self, corpus: forgetting.Corpus, last: bool) -> None:
        """How well the model predicts the corpus -> forgetting.jsonl."""
        loop = self.loop
        found, usage = forgetting.read(loop.model, self.run.dtype, corpus)
        files.append_line(self._file("forgetting"), {"step": loop.step, "point": self.done, "last": last, **found})
        loop.trackers.log(loop.step, {"nats_per_token": found["value"]}, "forgetting/")
        loop.ledger.book(loop.step, "evaluate", usage, loop.clock.read())
        self.run.show(loop.name, loop.spent, f"{found['value']:.3f} nats a token on the corpus")

    def _keep_examples(self, m: Measurement, decode: str) -> None:
        """Some of the best and some of the worst trajectories of the last evaluation -> rollouts.jsonl."""
        loop, kept = self.loop, self.run.recipe.evaluation.rollouts_kept
        order = np.argsort(-np.nan_to_num(m.answers), kind="stable")
        chosen = [m.trajectories[i] for i in dict.fromkeys([*order[: kept // 2], *order[::-1][: kept // 2]])]
        for t, s, g in zip(chosen, loop.judge.score(chosen), self.run.gold.score(chosen), strict=True):
            loop.keep_rollout(f"evaluate/{decode}", t, s, g, replay=loop.task.replay(t))

    def _track(self, step: int, decode: str, opponent: str, values: dict[str, Any]) -> None:
        self.loop.trackers.log(step, values, f"evaluation/{decode}/{opponent}/")

    def _file(self, name: str) -> Any:
        return self.loop.folder / f"{name}.jsonl"


def _flat(extra: dict[str, Any]) -> dict[str, Any]:
    """As trackers have it: each reward function's mean under `reward/<name>`, as in metrics.jsonl."""
    return {**extra, **{f"reward/{name}": mean for name, mean in extra.get("parts", {}).items()}}


def _said(m: Measurement) -> str:
    """The score for the progress display."""
    if np.isnan(m.value):
        return "no score: the gold judge could score none of the answers"
    return f"{m.value:.1%}" if m.share else f"{m.value:.3g}"
