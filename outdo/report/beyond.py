"""What lies beyond the task's own questions, for the templates: further splits, forgetting, and answers to read."""

from __future__ import annotations

from typing import Any

from outdo.report import format as show
from outdo.report.data import Row, RunData
from outdo.report.games import gold
from outdo.report.words import ANSWERS

_MOST_TEXT = 1200  # characters of one question or answer
_OF_EACH = 3  # right and wrong answers of each stage
_QUESTIONS, _ANSWERS = ("question", "problem"), ("answer", "solution", "ground_truth", "expected", "label")  # columns of a row


def further(run: RunData) -> Row | None:
    """Scores on every split, a row for each model, sampled and greedy side by side; None if there is one split alone."""
    if not run.further:
        return None
    main = run.recipe.evaluation.split
    splits = [main, *dict.fromkeys(str(p["split"]) for p in run.further)]
    of = {(p["name"], p["split"] or main, p["decode"]): p for p in [*run.players, *run.further]
          if p["extra"].get("opponent") == run.opponent}
    rows = []
    for name in _ordered(run):
        cells = [of.get((name, split, decode)) for decode in ("sampled", "greedy") for split in splits]
        if any(cells):
            rows.append({"name": name, "colour": _colour(run, name), "cells": cells})
    sizes = {show.count(p["n"]) for p in run.further}
    return {"splits": splits, "rows": rows, "n": " or ".join(sorted(sizes))}


def forgetting(run: RunData) -> Row | None:
    """How well each model predicts the corpus; None if that was not measured. One scale for all bars."""
    rows = [{**r, "colour": _colour(run, str(r["stage"]))} for r in run.forgetting if r["value"] is not None]
    if not rows:
        return None
    ends = [x for r in rows for x in (r["ci95"] or (r["value"], r["value"]))]
    low, high = min(ends), max(ends)
    start = next((r for r in rows if r["stage"] is None), None)
    stages = [r for r in rows if r["stage"] is not None]
    worst = max(stages, key=lambda r: r["value"]) if stages else None
    return {"rows": rows, "low": low, "high": max(high, low + 1e-6), "start": start, "worst": worst, "n": rows[0]["n"],
            "tokens": rows[0]["tokens"], "corpus": run.recipe.evaluation.corpus}


def answers(run: RunData) -> list[Row]:
    """Some good and some bad answers of every stage's last evaluation: greedy ones, or sampled ones where there are no greedy."""
    out = []
    for stage in run.stages.values():
        for decode in ("greedy", "sampled"):
            kept = {str(e.get("prompt_id")): e for e in stage.episodes if e.get("source") == f"evaluate/{decode}"}
            scored = sorted((e for e in kept.values() if gold(e) is not None), key=lambda e: gold(e) or 0.0)
            if scored:
                # Where right and wrong mean nothing, the best of those that were kept and the worst of them.
                limit = 0.5 if run.words is ANSWERS else gold(scored[len(scored) // 2 - 1]) or 0.0
                good = [e for e in reversed(scored) if (gold(e) or 0.0) > limit][:_OF_EACH]
                bad = [e for e in scored if (gold(e) or 0.0) <= limit][:_OF_EACH]
                rows = [{**_answer(e), "good": e in good} for e in [*good, *bad]]
                out.append({"name": stage.name, "colour": stage.colour, "decode": decode, "rows": rows})
                break
    return out


def _answer(e: Row) -> Row:
    info = found if isinstance(found := e.get("info"), dict) else {}
    asked = next((info[k] for k in _QUESTIONS if isinstance(info.get(k), str)), info.get("prompt", e.get("text", "")))
    known = next((info[k] for k in _ANSWERS if isinstance(info.get(k), str | int | float)), "")
    reason = found.get("reason") if isinstance(found := e.get("gold"), dict) else ""
    return {"asked": _text(asked), "said": _text(info.get("completion", "")), "known": _text(known), "gold": gold(e),
            "finish": str(e.get("finish", "")), "reason": _text(reason or "")}


def _text(value: Any) -> str:
    """A text, or messages one under the other; a single one without its role."""
    if isinstance(value, list):
        parts = [m for m in value if isinstance(m, dict)]
        lines = [f"{m.get('role', '?')}: {m.get('content', '')}" for m in parts]
        value = str(parts[0].get("content", "")) if len(parts) == 1 else "\n".join(lines)
    return str(value)[:_MOST_TEXT]


def _ordered(run: RunData) -> list[str]:
    """Where trees start first, then the stages; the reference players play their own split alone."""
    starts = [str(p["name"]) for p in [*run.players, *run.further] if p["stage"] is None]
    return list(dict.fromkeys([n for n in starts if n.endswith("(start)")] + list(run.stages)))


def _colour(run: RunData, name: str) -> int | None:
    return run.stages[name].colour if name in run.stages else None
