"""Two runs of different recipes on the same held-out prompts: the ends of their arms, paired, and what each cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from outdo.compare.evidence import Evidence
from outdo.compare.table import costs
from outdo.compare.words import points, rate, size
from outdo.errors import check
from outdo.evaluation.stats import paired_difference
from outdo.system import files

_DECODES = ("greedy", "sampled")


def check_comparable(a: Evidence, b: Evidence) -> None:
    """Raise UserError unless both were measured by the same gold judge on the same prompts of the same task."""
    (one, first), (two, second) = ((e.folders[0], e.recipe) for e in (a, b))
    remedy = "so a difference would say nothing; measure both alike: outdo eval RUN:STAGE --recipe RECIPE"
    for what, x, y in (("task", first.task, second.task), ("gold", first.gold, second.gold)):
        keys = _differing(x.model_dump(), y.model_dump())
        check(not keys, f"run {two} has another {what} than {one} ({', '.join(f'{what}.{k}' for k in keys)}), {remedy}")
    for key in ("split", "prompts"):
        values = [getattr(r.evaluation, key) for r in (first, second)]
        check(values[0] == values[1], f"evaluation.{key} is {values[0]!r} in {one} and {values[1]!r} in {two}, {remedy}")
    check(first.evaluation.prompts > 0, f"{one} and {two} measured nothing (evaluation.prompts = 0), {remedy}")
    mine, theirs = (_task_files(e) for e in (a, b))
    changed = [p for p in mine.keys() & theirs.keys() if mine[p] != theirs[p]]
    check(not changed, f"{', '.join(sorted(changed)[:3])} changed between {one} and {two}, {remedy}")


def markdown(a: Evidence, b: Evidence) -> str:
    """Scores of both, the paired differences and the cost. Raises UserError where the runs cannot be compared."""
    check_comparable(a, b)
    names = [str(e.folders[0]) for e in (a, b)]
    lines = [f"A is {names[0]}, B is {names[1]}: different recipes, measured on the same {a.recipe.evaluation.prompts:,} "
             f"{a.recipe.evaluation.split} prompts by the same gold judge. Intervals are 95 %.", "",
             "| A | B | decoding | A scores | B scores | B - A, paired | verdict |", "|---|---|---|---|---|---|---|"]
    said = ""
    for ours in a.recipe.arms():
        for theirs in b.recipe.arms():
            for decode in _DECODES:
                x, y = a.final(ours, decode), b.final(theirs, decode)
                if x is None or y is None or x.shape[1] != y.shape[1]:
                    continue
                e, d = (a if not a.shares else b), paired_difference(y, x)
                verdict = {"higher": "B is better", "lower": "A is better"}.get(d.verdict, d.verdict)
                lines.append(f"| {ours} | {theirs} | {decode} | {rate(e, x)} | {rate(e, y)} | {points(e, d)} | {verdict} |")
                said = size(e, d)
    check(bool(said), f"{names[0]} and {names[1]} have no stages at whose end both measured the same prompts")
    lines += ["", f"{said[:1].upper()}{said[1:]}.", "", "**Cost**", "",
              "| run | stage | TFLOP | tokens sampled | trained | seconds |", "|---|---|---|---|---|---|"]
    for letter, e in (("A", a), ("B", b)):
        lines += [f"| {letter} | {c['stage']} | {sum(c['flops'].values()) / 1e12:.3g} | {c['decode_tokens']:,.0f} | "
                  f"{c['train_tokens']:,.0f} | {c['wall_s']:,.0f} |" for c in costs(e)]
    return "\n".join(lines) + "\n"


def _differing(x: dict[str, Any], y: dict[str, Any]) -> list[str]:
    return sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))


def _task_files(e: Evidence) -> dict[str, str]:
    """The fingerprints of the files that the task and the gold judge name, as the run wrote them."""
    file = Path(e.folders[0]) / "origin.json"
    known: dict[str, str] = files.read_json(file)["files"] if file.exists() else {}
    named = str(e.recipe.task.model_dump()) + str(e.recipe.gold.model_dump())
    return {p: mark for p, mark in known.items() if p in named}
