"""From a run folder to summary.json: scores, cost and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outdo.compare import forgetting, losses
from outdo.compare.conclusion import conclusion
from outdo.compare.evidence import Evidence, by_split, start_name
from outdo.compare.verdicts import verdicts
from outdo.ledger import ledger
from outdo.recipe import Recipe
from outdo.recipe import load as load_recipe
from outdo.system import files


def summarise(folder: Path) -> dict[str, Any]:
    """The content of summary.json, read from a run folder's other files."""
    recipe = load_recipe(folder / "recipe.toml")
    evidence = Evidence([folder], recipe)
    return {
        "task": recipe.task.name,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "players": [*model_players(folder, recipe), *reference_players(folder, recipe)],
        "forgetting": forgetting.rows(evidence),
        "ledger": {name: ledger.summarise(ledger.read(folder / "stages" / name / "ledger.jsonl")) for name in recipe.stage},
        "heldout": [{"stage": n, **r} for n in recipe.stage for r in files.read_lines(folder / "stages" / n / "heldout.jsonl")
                    if r["last"]],
        "losses": [{**r, "seeds": [recipe.seed]} for r in losses.rows(evidence)],
        "conclusion": conclusion(evidence),
        "verdicts": verdicts(folder, recipe),
    }


def model_players(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """One row per finished stage, split, decoding and opponent; then the same of the checkpoints that trees start from."""
    stages, starts = list[dict[str, Any]](), dict[tuple[str, ...], dict[str, Any]]()
    for name in recipe.order():
        start = start_name(recipe, name)
        for split, rows in by_split(folder / "stages" / name, recipe).items():
            for e in rows:
                extra = {**e["extra"], "opponent": e["opponent"], "judging": e["judging"]}
                if e["last"]:
                    stages.append(_player(name, name, e["decode"], e, recipe.seed, extra, split))
                elif start and e["point"] == 0:
                    begun = _player(start, None, e["decode"], e, recipe.seed, extra, split)
                    starts[start, split, e["decode"], e["opponent"]] = begun
    return [*stages, *starts.values()]


def reference_players(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The players that are not the model."""
    return [_player(e["player"], None, "sampled" if e["player"] == "random" else "greedy", e, recipe.seed,
                    {**e["extra"], "opponent": e["opponent"]}, recipe.evaluation.split)
            for e in files.read_lines(folder / "players.jsonl")]


def _player(name: str, stage: str | None, decode: str, e: dict[str, Any], seed: int, extra: dict[str, Any],
            split: str) -> dict[str, Any]:
    metric = f"{e.get('metric', 'win')} vs {e['opponent']}"
    return {"name": name, "stage": stage, "decode": decode, "split": split, "metric": metric, "value": e["value"],
            "ci95": e["ci95"], "n": e["n"], "seeds": [seed], "share": e.get("share", True),
            "extra": extra, "extra_ci95": e.get("extra_ci95", {})}
