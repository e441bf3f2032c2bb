"""The recipe that follows a piece of advice, and the scoring of advice when a run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outdo.advice import record
from outdo.advice.base import Advice
from outdo.recipe import Recipe, dumps
from outdo.system import files

_STAGES: dict[str, dict[str, Any]] = {
    "sft": {"kind": "sft"}, "filtered_sft": {"kind": "sft", "keep": "won"}, "rl": {"kind": "rl"},
    "rejection": {"kind": "rejection"},
}


def written(recipe: Recipe, advice: Advice, flops: float, start: str | None) -> str:
    """A recipe with the advised option as an arm, the best other one beside it, at the same cost."""
    data = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    source = start or recipe.checkpoint(recipe.arms()[0])
    begin = {"from": source} if source else {}
    own = next((s for s in recipe.stage.values() if s.kind in ("sft", "pretrain")), None)
    player = {} if own is None else {k: v for k, v in own.model_dump(mode="json", exclude_defaults=True).items()
                                     if k in ("player", "data", "columns", "train_on", "episodes")}
    names = [advice.option, *(o.name for o in advice.options if o.name != advice.option)]
    stages: dict[str, Any] = {}
    for name in names:
        if len(stages) >= (3 if "sft_then_rl" in names[:2] else 2):
            break
        if name == "sft_then_rl":
            stages["begin"] = {"kind": "sft", **player, **begin, "flops": flops / 2}
            stages["sft_then_rl"] = {"kind": "rl", "from": "begin", "flops": flops / 2}
        elif name in _STAGES:
            stages[name] = {**_STAGES[name], **(player if "sft" in name else {}), **begin, "flops": flops}
    data["stage"] = stages or {"rl": {"kind": "rl", **begin, "flops": flops}}
    data["name"] = f"{recipe.name}-advised"
    data.pop("arm_flops", None)
    return (f"# Advice of outdo advise: {advice.option.replace('_', ' ')} ({advice.rule}), and the next best beside it at the "
            "same cost.\n"
            f"# {advice.reasons[0]}\n\n{dumps(data)}")


def score_advice(recipe: Recipe, folder: Path) -> None:
    """Hold advice on this recipe's question against what its arms ended with. Does nothing where there was none."""
    scores: dict[str, float] = {}
    start = ""
    for name in recipe.arms():
        file = folder / "stages" / name / "evaluations.jsonl"
        rows = [r for r in files.read_lines(file) if r["decode"] == "sampled"] if file.exists() else []
        if not rows:
            continue
        kinds = [recipe.stage[s].kind for s in recipe.path(name)]
        begun = kinds[-1] == "rl" and kinds[:-1] == ["sft"]
        option = "sft_then_rl" if begun else record.KINDS.get(kinds[-1])
        option = "filtered_sft" if name.startswith("filtered") else option
        if option is not None:
            start = recipe.checkpoint(name) or ""
            scores.setdefault(option, float(rows[-1]["value"]))
            scores.setdefault("nothing", float(rows[0]["value"]))
    if len(scores) > 1:
        record.outcome(record.key(recipe.task.model_dump(), recipe.judge.model_dump(), start), str(folder), scores)
