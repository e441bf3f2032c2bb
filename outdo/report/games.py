"""Which of the kept episodes the page shows, and what of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outdo.report.data import Row, RunData, Stage
from outdo.report.format import number

_MOST_TEXT, _MOST_STEPS = 4000, 400  # characters and steps of one episode on the page
_WON = 0.5  # a gold score above this counts as won


def interesting(run: RunData) -> list[Row]:
    """A won and a lost episode per stage and decoding (greedy first), for stepping through."""
    out = []
    for stage in run.stages.values():
        for decode in ("greedy", "sampled"):
            mine = [e for e in stage.episodes if e.get("source") == f"evaluate/{decode}" and gold(e) is not None]
            won = sorted((e for e in mine if (gold(e) or 0.0) > _WON), key=_length)
            lost = sorted((e for e in mine if (gold(e) or 0.0) <= _WON), key=_length)
            if won:
                out.append(episode(stage, decode, "won", won[len(won) // 2]))
            if lost:
                out.append(episode(stage, decode, "lost", lost[-1]))
    return out


def opening(shown: Sequence[Row], stage: str | None) -> int:
    """Which of the shown episodes comes first: a won one of the given stage, any of it, any won one, or the first."""
    ranks = [2 * (g["stage"] == stage) + (g["outcome"] == "won") for g in shown]
    return ranks.index(max(ranks)) if ranks else 0


def telling(stage: Stage) -> Row | None:
    """The episode that the training judge liked most beyond what the gold judge says; the longest of those."""
    scored = [(a - b, _length(e), e) for e in stage.episodes
              if (a := _value(e, "score")) is not None and (b := gold(e)) is not None]
    if not scored:
        return None
    best = max(scored, key=lambda x: x[:2])[2]
    decode = str(best.get("source", "")).removeprefix("evaluate/")
    return episode(stage, decode, "won" if (gold(best) or 0.0) > _WON else "lost", best)


def episode(stage: Stage, decode: str, outcome: str, e: Row) -> Row:
    """One episode as the page's script reads it."""
    info = found if isinstance(found := e.get("info"), dict) else {}
    steps = found if isinstance(found := e.get("replay"), list) else []
    return {
        "stage": stage.name, "colour": stage.colour, "decode": decode, "outcome": outcome,
        "result": str(info.get("result", e.get("finish", ""))).replace("_", " "),
        "opponent": str(info.get("opponent", "")), "prompt": str(e.get("prompt_id", "")),
        "score": _value(e, "score"), "reason": _reason(e, "score"), "gold": gold(e),
        "text": str(e.get("text", ""))[:_MOST_TEXT],
        "steps": [_step(s) for s in steps[:_MOST_STEPS] if isinstance(s, dict)],
        "board": any(isinstance(s, dict) and isinstance(s.get("fen"), str) for s in steps),
    }


def gold(e: Row) -> float | None:
    """The gold judge's value, or None."""
    return _value(e, "gold")


def _step(step: Row) -> Row:
    """A board position where the task gives one (`fen`), else the step's own fields as text."""
    if not isinstance(step.get("fen"), str):
        return {"text": "\n".join(f"{k}: {v}" for k, v in step.items())[:_MOST_TEXT]}
    out: dict[str, Any] = {k: str(step[k]) for k in ("fen", "uci", "san", "by") if k in step}
    return {**out, "illegal": True} if step.get("illegal") else out


def _length(e: Row) -> int:
    steps = e.get("replay")
    return len(steps) if isinstance(steps, list) and steps else len(str(e.get("text", "")))


def _value(e: Row, key: str) -> float | None:
    found = e.get(key)
    return number(found.get("value")) if isinstance(found, dict) else None


def _reason(e: Row, key: str) -> str:
    found = e.get(key)
    return str(found.get("reason", "")) if isinstance(found, dict) else ""
