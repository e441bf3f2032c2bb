"""How well stages that imitated rows of data predict rows that never trained, at their end and since their start."""

from __future__ import annotations

from typing import Any

from outdo.compare.evidence import Evidence
from outdo.evaluation import loss
from outdo.system import files


def rows(e: Evidence) -> list[dict[str, Any]]:
    """One row per finished stage that imitated rows: {"stage", "value", "ci95", "n", "tokens", "change": {"value", "ci95"},
    "each": of every seed}. Losses in nats per trained token; None as an interval where there is only one row."""
    out = []
    for name in e.recipe.order():
        found = [[r for r in files.read_lines(f / "stages" / name / "evaluations.jsonl") if r["decode"] == loss.DECODE]
                 for f in e.folders]
        if all(seed and seed[-1]["last"] for seed in found):
            ends = [seed[-1] for seed in found]
            out.append({"stage": name, **loss.summarise([seed[0] for seed in found], ends), "each": [r["value"] for r in ends]})
    return out
