"""From a run folder to summary.json: the table of players, the bill, the verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outdo import files
from outdo.compare.verdicts import verdicts
from outdo.evaluation import loss
from outdo.ledger import ledger
from outdo.recipe import Recipe
from outdo.recipe import load as load_recipe


def summarise(folder: Path) -> dict[str, Any]:
    """The content of summary.json, read from a run folder's other files."""
    recipe = load_recipe(folder / "recipe.toml")
    return {
        "task": recipe.task.name,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "players": [*model_players(folder, recipe), *reference_players(folder, recipe)],
        "ledger": {name: ledger.summarise(ledger.read(folder / "stages" / name / "ledger.jsonl")) for name in recipe.stage},
        "losses": losses(folder, recipe),
        "verdicts": verdicts(folder, recipe),
    }


def model_players(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """One row per finished stage, decoding and opponent."""
    out = []
    for name in recipe.order():
        for e in files.read_lines(folder / "stages" / name / "evaluations.jsonl"):
            if e["last"] and e["decode"] != loss.DECODE:
                extra = {**e["extra"], "opponent": e["opponent"], "judging": e["judging"]}
                out.append(_player(name, name, e["decode"], e, recipe.seed, extra))
    return out


def losses(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """One row per finished stage that imitated rows: its loss on held-out ones."""
    out = []
    for name in recipe.order():
        found = [e for e in files.read_lines(folder / "stages" / name / "evaluations.jsonl") if e["decode"] == loss.DECODE]
        if found and found[-1]["last"]:
            out.append({"stage": name, **loss.summarise(found[0], found[-1]), "seeds": [recipe.seed]})
    return out


def reference_players(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The players that are not the model."""
    return [_player(e["player"], None, "sampled" if e["player"] == "random" else "greedy", e, recipe.seed,
                    {**e["extra"], "opponent": e["opponent"]})
            for e in files.read_lines(folder / "players.jsonl")]


def _player(name: str, stage: str | None, decode: str, e: dict[str, Any], seed: int, extra: dict[str, Any]) -> dict[str, Any]:
    metric = f"{e.get('metric', 'win')} vs {e['opponent']}"
    return {"name": name, "stage": stage, "decode": decode, "metric": metric, "value": e["value"], "ci95": e["ci95"],
            "n": e["n"], "seeds": [seed], "extra": extra}
