"""The run folder as a reader sees it: everything that the page needs, nothing of training.

Works on a finished run, on one that is still going and on one that was interrupted; whatever is not there yet is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outdo.errors import UserError, check
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.recipe import load as load_recipe
from outdo.report import notes
from outdo.report.format import number, pair
from outdo.report.words import ANSWERS, GAMES, SCORES, Words
from outdo.system import files

Row = dict[str, Any]
FLOPS = ("prefill", "decode", "judge", "reference", "update")
COLOURS = 10  # style.css has --c0 .. --c9; further stages take them again, told apart by dash and marker
_PLAYER = ("name", "stage", "decode", "split", "metric", "value", "ci95", "n", "seeds")
_FIRST_OF_KIND = {"sft": 1, "rl": 2, "rejection": 3}


@dataclass(frozen=True)
class Stage:
    """One stage's files. `spent` is the share of its budget, None where that cannot be told."""

    name: str
    kind: str
    source: str | None
    judge: Plugin | None  # what trains it; None for imitation
    colour: int
    done: bool
    spent: float | None
    metrics: list[Row]
    events: list[Row]
    evaluations: list[Row]  # on the evaluation's own split
    losses: list[Row]  # evaluations on held-out rows of data
    further: list[Row]  # on the splits of `evaluation.also`
    read: list[Row]  # forgetting
    probes: list[Row]  # of the live audit
    audited: Row  # what the live audit says in sum; empty without one
    episodes: list[Row]  # kept from the last evaluation; what was sampled for training is left out

    @property
    def started(self) -> bool:
        return bool(self.events or self.evaluations or self.metrics)

    @property
    def trained(self) -> list[Row]:
        """Ledger events of the stage's own work that count: neither evaluation nor steps that were done again."""
        return [e for e in self.events if e.get("what") == "train" and not e.get("redone")]


@dataclass(frozen=True)
class RunData:
    """One run folder. `players` and `ledger` have summary.json's shape, also where there is no summary.json yet."""

    folder: Path
    recipe: Recipe
    recipe_text: str
    environment: Row
    finished: bool
    players: list[Row]  # on the evaluation's own split
    further: list[Row]  # the same on the splits of `evaluation.also`
    forgetting: list[Row]
    ledger: dict[str, Row]
    verdicts: list[Row]
    conclusion: str
    notes: list[str]  # lines beside the table of scores
    stages: dict[str, Stage]

    @property
    def opponent(self) -> str:
        """The first opponent: the one that every evaluation along the way was played against."""
        rows = [e for s in self.stages.values() for e in s.evaluations] or [p["extra"] for p in self.players]
        return str(rows[0].get("opponent", "none")) if rows else "none"

    @property
    def teacher(self) -> str:
        """Name of the reference player that imitation imitates."""
        return next((getattr(s, "player", "teacher") for s in self.recipe.stage.values() if s.kind == "sft"), "teacher")

    @property
    def shares(self) -> bool:
        """Whether every single answer counts 0 or 1, so that scores are shares and can be said in percent."""
        rows = [e for s in self.stages.values() for e in [*s.evaluations, *s.further]]
        return all(e["share"] if isinstance(e.get("share"), bool) else _zeros_and_ones(e) for e in rows)

    @property
    def words(self) -> Words:
        """What the page calls what the model does, by the metric."""
        name = str(self.players[0].get("metric", "score")).split(" vs ")[0] if self.players else "win"
        return GAMES if name == "win" else ANSWERS if self.shares else SCORES

    @property
    def metric(self) -> str:
        """What a player's value measures, in words."""
        name = str(self.players[0].get("metric", "score")).split(" vs ")[0] if self.players else "score"
        return self.words.metric if name in ("win", "gold") else name


def _zeros_and_ones(e: dict[str, Any]) -> bool:
    """Of rows written before single answers were told apart: whether the score could be a share."""
    found = e["items"] if isinstance(e.get("items"), list) else [e.get("value")]
    return all(0.0 <= v <= 1.0 for x in found if (v := number(x)) is not None)


def read(folder: Path) -> RunData:
    """Read a run folder. Raises UserError if it is none."""
    recipe_file = folder / "recipe.toml"
    check(recipe_file.is_file(), f"{str(folder)!r} is not a run folder (it has no recipe.toml); give the folder that "
                                 "outdo run printed")
    recipe = load_recipe(recipe_file)
    colours = stage_colours(recipe)
    stages = {name: _stage(folder, recipe, name, colours[name]) for name in recipe.order()}
    summary = _json(folder / "summary.json")
    players = [_checked(p) for p in _rows(summary.get("players")) or _players(folder, recipe, stages)]
    main = recipe.evaluation.split
    ledger = _dict(summary.get("ledger")) or {name: _bill(stage) for name, stage in stages.items()}
    return RunData(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_file.read_text(encoding="utf-8"),
        environment=_json(folder / "environment.json"),
        finished=bool(summary) and all(s.done for s in stages.values()),
        players=[p for p in players if p["split"] in (None, main)],
        further=[p for p in players if p["split"] not in (None, main)],
        forgetting=[_forgotten(r) for r in _rows(summary.get("forgetting")) or _forgetting(stages)],
        ledger={name: entry for name, entry in ledger.items() if isinstance(entry, dict)},
        verdicts=_rows(summary.get("verdicts")),
        conclusion=str(summary.get("conclusion") or ""),
        notes=notes.lines(summary) if summary else [],
        stages=stages,
    )


def stage_colours(recipe: Recipe) -> dict[str, int]:
    """One palette index per stage, the same in every chart: grey to start from, then by what the stage does."""
    out: dict[str, int] = {}
    for name in recipe.order():
        kind = recipe.stage[name].kind
        wanted = 0 if kind == "pretrain" else _FIRST_OF_KIND.get(kind, -1)
        if kind != "pretrain" and (wanted < 0 or wanted in out.values()):
            wanted = next((i for i in range(4, COLOURS) if i not in out.values()), 4 + len(out) % (COLOURS - 4))
        out[name] = wanted
    return out


def flops(event: Row) -> float:
    """All FLOPs of a ledger event."""
    return sum(number(event.get(f"{kind}_flops")) or 0.0 for kind in FLOPS)


def _stage(folder: Path, recipe: Recipe, name: str, colour: int) -> Stage:
    config, at = recipe.stage[name], folder / "stages" / name
    judge = None if config.kind in ("pretrain", "sft") else (getattr(config, "judge", None) or recipe.judge)
    episodes = [e for e in _lines(at / "rollouts.jsonl") if str(e.get("source", "")).startswith("evaluate/")]
    rows, main = [{**e, "extra": _dict(e.get("extra"))} for e in _lines(at / "evaluations.jsonl")], recipe.evaluation.split
    measured, losses = ([e for e in rows if (e.get("decode") == "loss") == by_rows] for by_rows in (False, True))
    evaluations, further = ([e for e in measured if (e.get("split", main) == main) == own] for own in (True, False))
    out = Stage(name, config.kind, recipe.parent(name), judge, colour, (at / "done.json").is_file(), None,
                list(_lines(at / "metrics.jsonl")), list(_lines(at / "ledger.jsonl")), evaluations, losses, further,
                list(_lines(at / "forgetting.jsonl")), list(_lines(at / "audit.jsonl")),
                _json(at / "audit.json"), episodes)
    return Stage(**{**out.__dict__, "spent": 1.0 if out.done else _spent(recipe, out)})


def _spent(recipe: Recipe, stage: Stage) -> float | None:
    """As `stages.loop.Loop.spent`: the larger share of the FLOP budget and of the step budget."""
    budget, steps = recipe.budget_flops(stage.name), recipe.stage[stage.name].steps
    shares = [sum(flops(e) for e in stage.trained) / budget] if budget else []
    shares += [len(stage.metrics) / steps] if steps else []
    return min(max(shares), 1.0) if shares else None


def _players(folder: Path, recipe: Recipe, stages: dict[str, Stage]) -> list[Row]:
    """summary.json's rows for a run that has none yet: the newest evaluation of each stage, split, decoding and opponent."""
    out: list[Row] = []
    for stage in stages.values():
        newest: dict[tuple[str, ...], Row] = {}
        for e in [*stage.evaluations, *stage.further]:
            newest[str(e.get("split")), str(e.get("decode")), str(e.get("opponent"))] = e
        for e in newest.values():
            out.append(_player(stage.name, stage.name, str(e.get("decode")), e, recipe.seed, e.get("judging")))
    for e in _lines(folder / "players.jsonl"):
        name = str(e.get("player"))
        out.append(_player(name, None, "sampled" if name == "random" else "greedy", e, recipe.seed, None))
    return out


def _player(name: str, stage: str | None, decode: str, e: Row, seed: int, judging: Any) -> Row:
    extra = {**_dict(e.get("extra")), "opponent": e.get("opponent"), "judging": judging}
    return {"name": name, "stage": stage, "decode": decode, "split": e.get("split"), "extra_ci95": e.get("extra_ci95"),
            "metric": f"{e.get('metric', 'win')} vs {e.get('opponent')}", "value": e.get("value"),
            "ci95": e.get("ci95"), "n": e.get("n"), "seeds": [seed], "extra": extra}


def _checked(player: Row) -> Row:
    """A player's row with every key there, and None for numbers that are none."""
    numbers = {"value": number(player.get("value")), "ci95": pair(player.get("ci95")), "n": number(player.get("n"))}
    split = None if player.get("split") is None else str(player["split"])
    return {**dict.fromkeys(_PLAYER), **player, **numbers, "split": split, "extra": _dict(player.get("extra")),
            "extra_ci95": _dict(player.get("extra_ci95"))}


def _forgetting(stages: dict[str, Stage]) -> list[Row]:
    """summary.json's rows for a run that has none yet; changes are not worked out."""
    out = []
    for stage in stages.values():
        for e in stage.read:
            who = stage.name if e.get("last") else None
            out.append({**e, "name": who or "the start", "stage": who})
    return out


def _forgotten(r: Row) -> Row:
    """A row about the corpus with every key there, and None for numbers that are none."""
    change = _dict(r.get("change"))
    stage = None if r.get("stage") is None else str(r["stage"])
    return {"name": str(r.get("name")), "stage": stage, "value": number(r.get("value")),
            "ci95": pair(r.get("ci95")), "n": number(r.get("n")), "tokens": number(r.get("tokens")),
            "change": number(change.get("value")), "change_ci95": pair(change.get("ci95"))}


def _bill(stage: Stage) -> Row:
    """As summary.json's ledger, from the events so far."""
    kept = stage.trained
    redone = [e for e in stage.events if e.get("what") == "train" and e.get("redone")]
    fields = ("prefill_tokens", "decode_tokens", "train_tokens", "discarded_tokens", "judge_calls", "judge_tokens",
              "judge_cost", "episodes",
              "wall_s", "cpu_s", "update_s", "update_core_s")
    return {
        **{f: _sum(kept, f) for f in fields},
        "flops": {kind: _sum(kept, f"{kind}_flops") for kind in FLOPS},
        "threads": max((number(e.get("threads")) or 0.0 for e in kept), default=0.0),
        "peak_rss_bytes": max((number(e.get("peak_rss_bytes")) or 0.0 for e in stage.events), default=0.0),
        "overhead_wall_s": _sum((e for e in stage.events if e.get("what") != "train"), "wall_s"),
        "redone_flops": sum(flops(e) for e in redone),
        "redone_wall_s": _sum(redone, "wall_s"),
    }


def _sum(events: Iterable[Row], name: str) -> float:
    return sum(number(e.get(name)) or 0.0 for e in events)


def _lines(path: Path) -> Iterator[Row]:
    return (line for line in files.read_lines(path) if isinstance(line, dict))


def _dict(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _rows(value: Any) -> list[Row]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


def _json(path: Path) -> Row:
    """A JSON object, empty if the file is not there. Raises UserError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = files.read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{str(path)!r} is not valid JSON ({e}); let outdo write it again, or delete it") from None
    return _dict(value)
