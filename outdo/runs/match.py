"""A match: two players on the same starts, batch by batch, until the starts or the question are decided (`outdo match`).

A player is a checkpoint, a stage of a run or one of the task's reference players. What the counts mean is in
`outdo.evaluation.match`. On a task with one side for the policy both play against the same opponent. A task with two sides needs
only another way to play a batch, in which A and B meet twice; points, counts and tests stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outdo.errors import UserError, check, nearest
from outdo.evaluation.match import Pentanomial, Sprt, compared, difference, elo, pairs
from outdo.judges.base import Judge, make_judge
from outdo.models import fetch
from outdo.recipe import Recipe, load
from outdo.rollout.episodes import rollout
from outdo.runs import reopen
from outdo.runs.resolve import resolve
from outdo.system import randomness
from outdo.tasks.base import Task, make_task
from outdo.types import Prompt, Trajectory

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """How a match is played. seeds: of sampling, one for A and one for B; equal ones give both the same random numbers."""

    pairs: int | None = None  # at most; None: the recipe's number of evaluation prompts
    batch: int = 100  # pairs between two looks at the counts
    decode: str = "sampled"
    opponent: str | None = None  # None: the task's first
    seed: int = 0  # of the starts
    seeds: tuple[int, int] = (0, 0)
    sprt: Sprt | None = None  # None: all pairs are played


@dataclass(frozen=True)
class Side:
    """A player ready to play. Both sides read the same rows, each with its own tokenizer."""

    name: str
    task: Task
    gold: Judge
    opened: reopen.Opened | None  # None: a reference player of the task

    def play(self, prompts: Sequence[Prompt], opponent: str, decode: str, seed: int, progress: Progress) -> list[Trajectory]:
        """One game for each prompt. The opponent draws the same random numbers for everybody with this seed."""
        if self.opened is None:
            seeds = np.array([randomness.key(1 + seed, "environment", p.id) for p in prompts], np.int64)
            return self.task.play(self.name, prompts, seeds, opponent)
        found, _ = rollout(self.opened.engine, self.task, prompts, temperature=reopen.DECODES[decode], opponent=opponent,
                           seed=1 + seed, progress=lambda done, of: progress(self.name, done, of))
        return found


def sides(a: str, b: str, recipe: Path | None, task: str | None, overrides: Mapping[str, Any]) -> tuple[Recipe, Side, Side]:
    """The two players, loaded, and the recipe that says what is played. Raises UserError."""
    found = {name: reopen.locate(name) for name in (a, b) if fetch.is_checkpoint(name)}
    config = resolve(_recipe([run for _, run in found.values() if run is not None], recipe, task, overrides))
    plays = make_task(config.task)
    gold = make_judge(config.gold)
    for name in (a, b):
        check(name in found or name in plays.players, f"{name!r} is neither a checkpoint nor a player of task {plays.name}"
              f"{nearest(name, plays.players)}; {fetch.FORMS}")
    opened = {name: reopen.opened(folder, config) for name, (folder, _) in found.items()}
    shared = next((o.task for o in opened.values()), plays)  # a player of a text task reads with the other's tokenizer

    def side(name: str) -> Side:
        o = opened.get(name)
        return Side(name, shared if o is None else o.task, gold, o)

    return config, side(a), side(b)


def _recipe(runs: Sequence[Path], recipe: Path | None, task: str | None, overrides: Mapping[str, Any]) -> Recipe:
    """--recipe, --task, or the recipe of the runs, which must be of one task."""
    if recipe is not None or task is not None:
        return reopen.recipe_for(None, recipe, task, overrides)
    if not runs:
        raise UserError("neither player lies in a run folder, so the task is unknown; add --task or --recipe")
    tables = [load(run / "recipe.toml").task for run in runs]
    check(all(t == tables[0] for t in tables), f"{' and '.join(map(str, runs))} were trained on different tasks; "
          "say which one is played with --recipe or --task")
    return load(runs[0] / "recipe.toml", overrides)


def play(config: Recipe, a: Side, b: Side, plan: Plan, progress: Progress) -> Iterator[dict[str, Any]]:
    """One record for each batch, of everything played so far; the last one is the result. Raises UserError."""
    opponent, limit = plan.opponent or a.task.opponents[0], plan.pairs or config.evaluation.prompts
    check(opponent in a.task.opponents, f"--opponent {opponent!r}: task {a.task.name} has no such name"
                                        f"{nearest(opponent, list(a.task.opponents))}")
    check(limit > 0, "the recipe evaluates on no prompts; say how many starts to play: --pairs")
    scores: list[np.ndarray] = []  # [2, pairs] of each batch: what A and B scored
    done, record = 0, None
    for prompts_a, prompts_b in _starts(a.task, b.task, config.evaluation.split, limit, plan):
        games = [side.play(prompts, opponent, plan.decode, seed, progress)
                 for side, prompts, seed in ((a, prompts_a, plan.seeds[0]), (b, prompts_b, plan.seeds[1]))]
        scores.append(np.stack([_scores(side, g) for side, g in zip((a, b), games, strict=True)]))
        done += len(prompts_a)
        record = _record(np.concatenate(scores, 1), a.task.points([]) is not None, plan)
        record |= {"task": a.task.name, "split": config.evaluation.split, "a": a.name, "b": b.name, "opponent": opponent,
                   "decode": plan.decode, "seed": plan.seed, "sampling_seeds": list(plan.seeds), "batches": len(scores),
                   "limit": limit}
        yield record
        if record["sprt"] and record["sprt"]["decision"]:
            return
    check(record is not None, f"split {config.evaluation.split!r} has no starts; choose another with --set evaluation.split=NAME")


def _scores(side: Side, games: Sequence[Trajectory]) -> np.ndarray:
    """Points of games, or the gold judge's scores; NaN where there is none."""
    points = side.task.points(games)
    if points is not None:
        return points
    return np.array([np.nan if s.value is None else s.value for s in side.gold.score(games)], np.float64)


def _starts(a: Task, b: Task, split: str, limit: int, plan: Plan) -> Iterator[tuple[list[Prompt], list[Prompt]]]:
    """Batches of different starts, the same for both: a start played twice would count as two and say as much as one."""
    size = a.size(split)
    at, played, seen = 0, 0, set[bytes]()
    most = math.inf if size is None else size
    while played < limit:
        chosen: list[tuple[Prompt, Prompt]] = []
        wanted = min(plan.batch, limit - played)
        while len(chosen) < wanted and at < most:
            n = int(min(wanted, most - at))
            drawn, new = list(zip(*(t.prompts(split, n, plan.seed, at) for t in (a, b)), strict=True)), len(chosen)
            at += n
            for mine, theirs in drawn:
                check(mine.row == theirs.row, f"A and B read different prompts as {mine.id}: their tokenizers leave out other "
                      "rows; raise task.max_prompt_tokens (--set) until none is dropped")
                key = np.asarray(mine.token_ids).tobytes()
                if key not in seen and len(chosen) < wanted:
                    seen.add(key)
                    chosen.append((mine, theirs))
            if len(chosen) == new:  # a whole draw of starts that were played before: there are hardly any others
                break
        if not chosen:
            return
        played += len(chosen)
        yield [x for x, _ in chosen], [y for _, y in chosen]


def _record(scores_2N: np.ndarray, games: bool, plan: Plan) -> dict[str, Any]:
    """JSON-serialisable; None where a number is infinite or unknown."""
    a, b = scores_2N
    points = (a, b) if games else compared(a, b)
    p = Pentanomial.of(pairs(*points))
    known = ~np.isnan(a - b)
    value, interval = difference(a, b, plan.seed)
    test = None
    if plan.sprt is not None:
        s = plan.sprt
        test = {"elo0": s.elo0, "elo1": s.elo1, "alpha": s.alpha, "beta": s.beta, "llr": s.llr(p.counts),
                "bounds": list(s.bounds), "decision": s.decision(p.counts)}
    return {
        "pairs": p.n, "unscored": len(a) - p.n, "counts": list(p.counts), "metric": "points" if games else "gold",
        "score": _number(p.score), "score_ci95": list(p.score_ci95), "elo": _number(elo(p.score)),
        "elo_ci95": [_number(x) for x in p.elo_ci95], "verdict": p.verdict,
        "a_mean": _number(float(a[known].mean()) if p.n else math.nan),
        "b_mean": _number(float(b[known].mean()) if p.n else math.nan),
        "difference": _number(value), "difference_ci95": [_number(x) for x in interval], "sprt": test,
        "items": [[_number(x) for x in row] for row in scores_2N.tolist()],
    }


def _number(x: float) -> float | None:
    return x if math.isfinite(x) else None
