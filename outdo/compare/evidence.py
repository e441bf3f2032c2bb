"""What run folders of one recipe hold, arranged for comparisons: per-item results of every player, seeds side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdo.evaluation import loss
from outdo.ledger import ledger
from outdo.recipe import Recipe
from outdo.system import files

Items = NDArray[np.float64]  # [seeds, items]


@dataclass(frozen=True)
class Point:
    """One evaluation along a stage. flops, seconds and judge_calls count from the stage's start."""

    flops: float
    seconds: float
    judge_calls: int
    items: Items  # [1, items]
    row: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """Finished runs of one recipe, one per seed."""

    folders: Sequence[Path]
    recipe: Recipe

    @cached_property
    def opponents(self) -> list[str]:
        """Opponents in the order they were played; the first is the main one."""
        rows = [*files.read_lines(self.folders[0] / "players.jsonl")]
        rows += [r for seeds in self._evaluations.values() for r in seeds[0] if r["last"]]
        return list(dict.fromkeys(r["opponent"] for r in rows)) or ["none"]

    @cached_property
    def shares(self) -> bool:
        """Whether every single answer counts 0 or 1, so that scores are shares and can be said in percent."""
        rows = [r for seeds in self._evaluations.values() for rows in seeds for r in rows]
        return all(r["share"] if "share" in r else _zeros_and_ones(r["items"]) for r in rows)

    @cached_property
    def counted(self) -> str:
        """games, where a score is the share of them that is won; answers, where one is right or not; else scores."""
        rows = [r for seeds in self._evaluations.values() for rows in seeds for r in rows]
        if any(r.get("metric", "win") == "win" for r in rows):
            return "games"
        return "answers" if self.shares else "scores"

    @cached_property
    def _evaluations(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Of the evaluation's own split."""
        return {name: [rows.get(self.recipe.evaluation.split, []) for rows in seeds] for name, seeds in self._by_split.items()}

    @cached_property
    def _by_split(self) -> dict[str, list[dict[str, list[dict[str, Any]]]]]:
        return {name: [by_split(f / "stages" / name, self.recipe) for f in self.folders] for name in self.recipe.stage}

    def final(self, stage: str, decode: str, opponent: str | None = None, split: str | None = None) -> Items | None:
        """Per-item results at the end of a stage; None if a seed has not finished it, or nothing of it could be scored.

        split: a further one of the evaluation.
        """
        rows = self.final_rows(stage, decode, opponent, split)
        return None if rows is None or any(r["value"] is None for r in rows) else items(rows)

    def final_rows(self, stage: str, decode: str, opponent: str | None = None,
                   split: str | None = None) -> list[dict[str, Any]] | None:
        """The evaluation rows at the end of a stage, one per seed."""
        wanted = opponent or self.opponents[0]
        return self._rows(stage, split, lambda r: r["last"] and r["decode"] == decode and r["opponent"] == wanted)

    def start_rows(self, decode: str, split: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """Evaluation rows, one per seed, of the checkpoints that trees start from, by name, before any training."""
        found = {start_name(self.recipe, name): self._rows(name, split, lambda r: r["point"] == 0 and r["decode"] == decode)
                 for name in self.recipe.stage if start_name(self.recipe, name)}
        return {name: rows for name, rows in found.items() if name and rows}

    def _rows(self, stage: str, split: str | None, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]] | None:
        found = [[r for r in seed.get(split or self.recipe.evaluation.split, []) if wanted(r)] for seed in self._by_split[stage]]
        return [rows[-1] for rows in found] if all(found) else None

    def first_rows(self, stage: str, decode: str) -> list[dict[str, Any]]:
        """The evaluation rows before the stage's first step, one per seed."""
        found = [[r for r in rows if r["decode"] == decode] for rows in self._evaluations[stage]]
        return [rows[0] for rows in found] if all(found) else []

    def read(self, stage: str, last: bool = True) -> list[dict[str, Any]] | None:
        """How well a stage's model predicts the corpus at its end or (last False, roots only) its start: a row per seed."""
        rows = [files.read_lines(f / "stages" / stage / "forgetting.jsonl") for f in self.folders]
        wanted = [[r for r in seed if r["last"] == last] for seed in rows]
        return [found[-1] for found in wanted] if all(wanted) else None

    def player(self, name: str, opponent: str | None = None) -> Items | None:
        """Per-item results of a reference player."""
        wanted = opponent or self.opponents[0]
        out = []
        for folder in self.folders:
            rows = files.read_lines(folder / "players.jsonl")
            found = [r for r in rows if r["player"] == name and r["opponent"] == wanted]
            if not found:
                return None
            out.append(_items(found[0]))
        return np.array(out)

    def curve(self, stage: str, decode: str, seed_index: int) -> list[Point]:
        """Evaluations against the main opponent along one seed's stage, in order."""
        events = ledger.read(self.folders[seed_index] / "stages" / stage / "ledger.jsonl")
        trained = [e for e in events if e["what"] == "train" and not e.get("redone")]
        out = []
        for row in self._evaluations[stage][seed_index]:
            if row["decode"] == decode and row["opponent"] == self.opponents[0] and row["value"] is not None:
                before = [e for e in trained if e["step"] < row["step"]]
                out.append(Point(row["flops"], sum(e["wall_s"] for e in before), sum(e["judge_calls"] for e in before),
                                 _items(row)[None], row))
        return out

    def at(self, stage: str, decode: str, flops: float) -> Items | None:
        """Per-item results when a stage had spent so many FLOPs since its start, between two evaluations in proportion.

        None where a seed's curve does not reach that far, or has fewer than three points, which is too coarse.
        """
        out = []
        for seed in range(len(self.folders)):
            curve = self.curve(stage, decode, seed)
            if len(curve) < 3 or curve[-1].flops < flops:
                return None
            after = next(i for i, p in enumerate(curve) if p.flops >= flops)
            a, b = curve[max(after - 1, 0)], curve[after]
            w = 1.0 if b.flops == a.flops else (flops - a.flops) / (b.flops - a.flops)
            out.append((1 - w) * a.items[0] + w * b.items[0])
        return np.array(out)

    def budget(self, stage: str) -> float:
        """FLOPs that a stage spent from its start to its end, the least of all seeds."""
        return min((c[-1].flops for seed in range(len(self.folders)) if (c := self.curve(stage, "greedy", seed)
                                                                          or self.curve(stage, "sampled", seed))), default=0.0)

    def metrics(self, stage: str) -> list[list[dict[str, Any]]]:
        """metrics.jsonl of every seed."""
        return [list(files.read_lines(f / "stages" / stage / "metrics.jsonl")) for f in self.folders]

    # --- which stage plays which part -------------------------------------------------------------------------------

    @cached_property
    def rl(self) -> str | None:
        """The reinforcement arm proper: the gold reward, starting from imitation."""
        return next((n for n in self._rl_on_gold if self._imitated(n)), None)

    @cached_property
    def rl_without_imitation(self) -> list[str]:
        """Reinforcement on the gold reward that starts from no imitation at all."""
        return [n for n in self._rl_on_gold if not self._imitated(n)]

    @cached_property
    def trunk(self) -> str | None:
        """The imitation stage from which reinforcement starts."""
        return self.recipe.stage[self.rl].source if self.rl else None

    @cached_property
    def sft_arms(self) -> list[str]:
        """Imitation arms, the trunk left out."""
        return [n for n, s in self.recipe.stage.items() if s.kind == "sft" and n != self.trunk]

    @cached_property
    def more_imitation(self) -> str | None:
        """The arm that only continues to imitate everything from where reinforcement starts."""
        return next((n for n in self.sft_arms if self.same_start(n) and self._keep(n) == "all"), None)

    @cached_property
    def rejection(self) -> str | None:
        return next((n for n, s in self.recipe.stage.items() if s.kind == "rejection" and self.same_start(n)), None)

    @cached_property
    def controls(self) -> list[str]:
        """Reinforcement on a reward that knows nothing."""
        return [n for n, s in self._own_judge.items() if s == "random_reward"]

    @cached_property
    def proxies(self) -> list[str]:
        """Reinforcement on a reward that is not the gold one."""
        return [n for n, s in self._own_judge.items() if s != "random_reward"]

    @cached_property
    def teacher(self) -> str | None:
        """The player whose episodes the trunk imitates."""
        stage = self.recipe.stage.get(self.trunk or "")
        return getattr(stage, "player", None) if stage is not None and stage.kind == "sft" else None

    @cached_property
    def _own_judge(self) -> dict[str, str]:
        gold = self.recipe.gold
        judges = {n: getattr(s, "judge", None) or self.recipe.judge for n, s in self.recipe.stage.items() if s.kind == "rl"}
        return {n: j.name for n, j in judges.items() if j != gold}

    @cached_property
    def _rl_on_gold(self) -> list[str]:
        return [n for n, s in self.recipe.stage.items() if s.kind == "rl" and n not in self._own_judge]

    def _imitated(self, name: str) -> bool:
        return any(self.recipe.stage[n].kind == "sft" for n in self.recipe.path(name))

    def same_start(self, name: str) -> bool:
        """Whether a stage starts from where reinforcement does."""
        return self.rl is not None and self.recipe.stage[name].source == self.recipe.stage[self.rl].source

    def _keep(self, name: str) -> str | None:
        stage = self.recipe.stage[name]
        return getattr(stage, "keep", None)


def _zeros_and_ones(found: Sequence[float | None]) -> bool:
    return {x for x in found if x is not None} <= {0.0, 1.0}


def items(rows: Sequence[dict[str, Any]], chosen: str | None = None) -> Items:
    """The per-item results of rows, one per seed; chosen: those of best@k or majority@k."""
    return np.array([_items(r if chosen is None else {"items": r["chosen"][chosen]}) for r in rows])


def by_split(folder: Path, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """A stage's evaluation rows by split, in order, losses left out; rows of before there were splits are of its own."""
    out: dict[str, list[dict[str, Any]]] = {}
    for row in files.read_lines(folder / "evaluations.jsonl"):
        if row["decode"] != loss.DECODE:
            out.setdefault(row.get("split", recipe.evaluation.split), []).append(row)
    return out


def start_name(recipe: Recipe, stage: str) -> str | None:
    """What a table calls the checkpoint that a root stage starts from; None for random weights and for other stages."""
    source = recipe.stage[stage].source
    if not source or recipe.parent(stage) is not None:
        return None
    parts = Path(source).parts
    if len(parts) > 4 and parts[-2] == "checkpoints" and parts[-4] == "stages":  # RUN/stages/STAGE/checkpoints/STEP
        return f"{parts[-5]}:{parts[-3]} (start)"
    return f"{Path(source).name} (start)"


def _items(row: dict[str, Any]) -> NDArray[np.float64]:
    return np.array([np.nan if x is None else x for x in row["items"]], np.float64)
