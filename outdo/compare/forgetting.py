"""What training on one task did to everything else: nats per token on the corpus, compared with where the tree began."""

from __future__ import annotations

from typing import Any

from outdo.compare.evidence import Evidence, items, start_name
from outdo.evaluation.stats import Difference, hierarchical_interval, paired_difference

Rows = list[dict[str, Any]]


def rows(e: Evidence) -> Rows:
    """What trees start from, and every finished stage.

    {"name", "stage", "value", "ci95", "n" passages, "tokens", "seeds", "change"}; value in nats per token. change: {"value",
    "ci95"} against the start, paired by passage; None for the start itself. Empty: not measured.
    """
    out = []
    for stage in e.recipe.order():
        begin, end = e.read(e.recipe.path(stage)[0], last=False), e.read(stage)
        if begin and e.recipe.parent(stage) is None:
            out.append(_row(start_name(e.recipe, stage) or "random weights (start)", None, begin, None))
        if end:
            out.append(_row(stage, stage, end, difference(end, begin)))
    return list({r["name"]: r for r in out}.values())


def difference(a: Rows | None, b: Rows | None) -> Difference | None:
    """a - b, a row per seed, paired by passage; None where they are not there or did not read the same text."""
    if not a or not b or len({r["sha256"] for r in [*a, *b]}) > 1:
        return None
    return paired_difference(items(a), items(b))


def _row(name: str, stage: str | None, found: Rows, change: Difference | None) -> dict[str, Any]:
    x = items(found)
    return {"name": name, "stage": stage, "value": float(x.mean()), "ci95": list(hierarchical_interval(x)), "n": x.shape[1],
            "tokens": found[0]["tokens"], "seeds": x.shape[0],
            "change": None if change is None else {"value": change.value, "ci95": list(change.ci95)}}
