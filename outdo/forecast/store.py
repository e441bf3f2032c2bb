"""Forecasts of a stage, read from its folder and kept in it: forecasts.jsonl.

What is forecast is the score of the stage's last evaluation on held-out prompts. Evaluations are few and each step has a reward,
so the reward's curve is used, brought to the score's scale: score now + k (reward - reward now). k, between 0 and 1, is how much
of the reward's change the evaluations have followed so far. Where the reward is gamed it is near 0, and the last score stays.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outdo.errors import check, nearest
from outdo.forecast.curve import LEAST, Curve, coarse
from outdo.forecast.forecast import Forecast, forecast
from outdo.system import files

FILE = "forecasts.jsonl"
CURVES = ("score", "reward", "gold")
_FIRST = 2  # the evaluation from which on a run stores forecasts; 0 is before its first step
_AROUND = 3  # points
BESIDE = 0.5  # share of a change that the reward does not explain, as a standard error
_SEEN = 2.0  # standard errors by which the reward must have moved before evaluations can have followed it


@dataclass(frozen=True)
class History:
    """Curves of a stage over FLOPs; empty where there is none."""

    score: Curve  # sampled, first opponent, the evaluation's own split
    reward: Curve
    gold: Curve  # of the live audit

    @property
    def end(self) -> float:
        """The last FLOPs."""
        return max((float(c.compute[-1]) for c in (self.score, self.reward) if len(c)), default=0.0)

    def curve(self, which: str) -> Curve:
        """One of CURVES."""
        return {"score": self.score, "reward": self.reward, "gold": self.gold}[which]

    def until(self, flops: float) -> History:
        """What was known then."""
        return History(self.score.until(flops), self.reward.until(flops), self.gold.until(flops))


def history(folder: Path) -> History:
    """Of a stage's folder."""
    steps = [(m["step"], m["flops"], m["reward"]) for m in files.read_lines(folder / "metrics.jsonl") if "reward" in m]
    rows = [e for e in files.read_lines(folder / "evaluations.jsonl") if e["decode"] == "sampled" and e["value"] is not None]
    own = [e for e in rows if (e.get("split"), e["opponent"]) == (rows[0].get("split"), rows[0]["opponent"])]
    flops_of = {step + 1: flops for step, flops, _ in steps} | {0: 0.0}
    probes = [(flops_of[a["step"]], a["gold"], *a["gold_ci95"]) for a in files.read_lines(folder / "audit.jsonl")
              if a["step"] in flops_of and a["gold"] is not None and a.get("gold_ci95")]
    low, high = (0.0, 1.0) if rows and rows[0].get("share") and all(0.0 <= p[1] <= 1.0 for p in probes) else (-np.inf, np.inf)
    return History(_curve([(e["flops"], e["value"], *e["ci95"]) for e in own], low, high),
                   _curve([(flops, reward, 0.0, 0.0) for _, flops, reward in steps]), _curve(probes, low, high))


def _curve(rows: list[tuple[float, float, float, float]], low: float = -np.inf, high: float = np.inf) -> Curve:
    """Rows of FLOPs, score and its 95 % interval; those that are no numbers or bring no new FLOPs are left out."""
    kept: list[tuple[float, float, float, float]] = []
    for row in rows:
        if np.isfinite(row[:2]).all() and (not kept or row[0] > kept[-1][0]):
            kept.append(row)
    a = np.array(kept, np.float64).reshape(-1, 4)
    return Curve(a[:, 0], a[:, 1], np.nan_to_num((a[:, 3] - a[:, 2]) / 3.92), low, high)


def of_score(seen: History, at: float) -> Forecast | None:
    """The last evaluation's score at FLOPs `at`; None where there are too few points."""
    score = seen.score
    if len(score) and len(seen.reward) >= LEAST:
        curve = linked(score, coarse(seen.reward))[1]
        # What the last score and the last evaluation scatter, and what the score did that the reward does not explain.
        beside = np.ptp(score.score - np.interp(score.compute, curve.compute, curve.score))
        return forecast(curve, at, float(np.sqrt(2.0 * score.se[-1] ** 2 + (BESIDE * beside) ** 2)))
    return forecast(score, at) if len(score) >= LEAST else None


def linked(score: Curve, reward: Curve) -> tuple[float, Curve]:
    """k, and the reward's curve on the score's scale, through the last evaluation.

    The reward at an evaluation is the mean of the points around it.
    """
    around = np.abs(reward.compute - score.compute[:, None]).argsort(1)[:, :_AROUND]
    there = reward.score[around].mean(1)
    moved, k = there - there.mean(), 0.0
    if np.ptp(there) > _SEEN * np.hypot(reward.se[0], reward.se[-1]) / np.sqrt(_AROUND) and len(score) > 1:
        k = float(np.clip(moved @ score.score / (moved @ moved), 0.0, 1.0))
    values = np.clip(score.score[-1] + k * (reward.score - there[-1]), score.low, score.high)
    if reward.compute[-1] <= score.compute[-1]:
        values[-1] = score.score[-1]
    return k, Curve(reward.compute, values, k * reward.se, score.low, score.high)


def of_curve(seen: History, which: str, at: float) -> Forecast | None:
    """One of CURVES at FLOPs `at`; None where there are too few points."""
    if which == "score":
        return of_score(seen, at)
    return forecast(seen.curve(which), at) if len(seen.curve(which)) >= LEAST else None


def note(folder: Path, step: int, point: int, spent: float, last: bool) -> Forecast | None:
    """At an evaluation of a running stage: keep a forecast of its end, or at its end the truth.

    spent: share of the stage's budget. Nothing is kept before the third evaluation, or of fewer than six points.
    """
    if point < _FIRST:
        return None
    seen = history(folder)
    if last:
        if (folder / FILE).exists() and len(seen.score):
            truth = float(seen.score.score[-1])
            files.append_line(folder / FILE, {"step": step, "point": point, "flops": seen.end, "truth": truth})
        return None
    found = of_score(seen, seen.end / spent) if 0.0 < spent < 1.0 else None
    if found is not None:
        files.append_line(folder / FILE, {"step": step, "point": point, **found.record()})
    return found


def stored(folder: Path) -> list[dict[str, Any]]:
    """Forecasts of a stage whose truth is known, each with it."""
    lines = list(files.read_lines(folder / FILE))
    truth = [line["truth"] for line in lines if "truth" in line]
    return [{**line, "truth": truth[-1]} for line in lines if "truth" not in line and truth]


def halved(folder: Path, which: str) -> list[dict[str, Any]]:
    """What would have been forecast half way through a finished stage, with what was then seen at its end; at most one.

    Half way is the evaluation that is nearest to half of the FLOPs, for the other curves half of their own.
    """
    seen = history(folder)
    curve = coarse(seen.curve(which))
    if len(curve) < 2 or not (folder / "done.json").is_file():
        return []
    end = float(curve.compute[-1])
    half = end / 2
    if which == "score":
        half = float(curve.compute[:-1][np.abs(curve.compute[:-1] - half).argmin()])
    found = of_curve(seen.until(half), which, end) if half > 0 else None
    return [] if found is None else [{**found.record(), "truth": float(curve.score[-1])}]


def planned_end(folder: Path, seen: History) -> float:
    """FLOPs at a stage's end, from its evaluations' places in its budget; of one that has ended, twice its own."""
    rows = [e for e in files.read_lines(folder / "evaluations.jsonl") if e["point"] > 0]
    if (folder / "done.json").is_file() or not rows:
        return 2.0 * seen.end
    recipe = tomllib.loads((folder.parent.parent / "recipe.toml").read_text(encoding="utf-8"))
    points = recipe.get("evaluation", {}).get("points", 6)
    return float(max(rows[-1]["flops"] * points / rows[-1]["point"], 1.01 * seen.end))


def stage_folder(run: str) -> Path:
    """The stage's folder of RUN[:stage]; of a run alone the stage that was last written to. Raises UserError."""
    place, _, name = run.partition(":")
    found = {p.name: p for p in stages(Path(place))}
    check(not name or name in found, f"{place!r} has no stage {name!r}{nearest(name, found)}")
    check(bool(found), f"{place!r} has not begun a stage")
    return found[name] if name else max(found.values(), key=lambda p: (p / "metrics.jsonl").stat().st_mtime_ns
                                        if (p / "metrics.jsonl").is_file() else 0)


def stages(run: Path) -> list[Path]:
    """Folders of a run's stages. Raises UserError."""
    check((run / "stages").is_dir(), f"{str(run)!r} is not a run folder: it has no stages")
    return sorted(p for p in (run / "stages").iterdir() if p.is_dir())
