"""Advice is kept, and scored when a run on the same task, judge and start ends: did the option win, and by how much?"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outdo.advice.base import Advice, Measured
from outdo.evaluation.stats import wilson
from outdo.system import files

KINDS = {"sft": "sft", "rl": "rl", "rejection": "rejection", "distill": "distill", "preference": "preferences"}
_TIE = 0.02  # of the score: options nearer than that are a tie


def file() -> Path:
    """Where advice is kept, beside the runs of the current folder: one line a piece of advice or an outcome."""
    return Path("runs") / "advice.jsonl"


def key(task: Mapping[str, Any], judge: Mapping[str, Any], start: str) -> str:
    """What makes two recipes the same question."""
    return hashlib.sha256(json.dumps([task, judge, start], sort_keys=True, default=str).encode()).hexdigest()[:16]


def keep(question: str, advice: Advice, m: Measured, flops: float) -> None:
    """Write a piece of advice down."""
    target = file()
    target.parent.mkdir(parents=True, exist_ok=True)
    files.append_line(target, {"what": "advice", "question": question, "at": time.strftime("%Y-%m-%d"), "option": advice.option,
                               "rule": advice.rule, "flops": flops, "measured": m.record(),
                               "options": {o.name: [o.predicted, o.low, o.high] for o in advice.options}})


def outcome(question: str, run: str, scores: Mapping[str, float]) -> bool:
    """Score the advice on this question by what a run's options ended with. False where there is none."""
    target = file()
    if not target.exists() or not scores:
        return False
    given = [e for e in files.read_lines(target) if e["what"] == "advice" and e["question"] == question]
    if not given:
        return False
    files.append_line(target, {"what": "outcome", "question": question, "at": time.strftime("%Y-%m-%d"), "run": run,
                               "advised": given[-1]["option"], "rule": given[-1]["rule"], "scores": dict(scores),
                               "predicted": given[-1]["options"]})
    return True


def summary() -> list[str]:
    """Hits, regret and coverage of the predictions, as lines."""
    rows = [e for e in files.read_lines(file()) if e["what"] == "outcome"] if file().exists() else []
    judged = [e for e in rows if len(e["scores"]) > 1 and e["advised"] in e["scores"]]
    if not judged:
        return [f"no advice has been scored yet ({len(rows)} outcomes; a run needs the advised option and another one)"]
    regrets = [max(e["scores"].values()) - e["scores"][e["advised"]] for e in judged]
    hits = sum(r <= _TIE for r in regrets)
    low, high = wilson(hits, len(judged))
    inside = [lo <= s <= hi for e in rows for name, s in e["scores"].items() if name in e["predicted"]
              for _, lo, hi in [e["predicted"][name]]]
    out = [f"{hits} of {len(judged)} pieces of advice were best or tied ({hits / len(judged):.0%} [{low:.0%}, {high:.0%}]); "
           "mean regret "
           f"{sum(regrets) / len(regrets):.3f}, worst {max(regrets):.3f}"]
    if inside:
        low, high = wilson(sum(inside), len(inside))
        out.append(f"{sum(inside)} of {len(inside)} scores fell into the predicted band ({sum(inside) / len(inside):.0%} "
                   f"[{low:.0%}, {high:.0%}])")
    return out
