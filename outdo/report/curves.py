"""Learning curves, training metrics and rewards as chart specifications that `charts.js` draws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from outdo.recipe import Recipe
from outdo.report.data import Row, RunData, Stage, flops
from outdo.report.format import number, pair

AXES = ("flops", "seconds", "calls")
GOLD = "gold"  # the player that writes the right answers
INK = 10  # palette index of what is no stage: the gold score, the teacher
Spec = dict[str, Any]
_MOST_POINTS = 80  # of one line among the small multiples; neighbours are averaged into bins

# metric in metrics.jsonl -> title, how to read it, number format
ROLLOUT_METRICS = {
    "reward": ("Reward", "mean score that the stage's own judge gave to what was sampled for training", "plain"),
    "entropy": ("Entropy", "how undecided the model still is, in nats per sampled token; near 0 it always does the same",
                "plain"),
    "zero_variance_groups": ("Groups that teach nothing", "share of groups whose samples all scored the same", "percent"),
    "clip_fraction": ("Clipped tokens", "share of tokens whose update was cut off as too far from the sampling policy",
                      "percent"),
    "logprob_gap": ("Sampler-trainer gap", "mean |log-probability difference| at each step's first update, in nats; 0: "
                    "exactly on-policy", "plain"),
    "kl": ("Step size (KL)", "how far a step moved the policy from the one that sampled, in nats per token", "plain"),
    "value_error": ("Critic's error", "mean squared difference between the score that it expected and its target", "plain"),
    "kept": ("Samples kept", "samples per step that rejection imitated", "plain"),
    "tokens_per_episode": ("Length", "tokens sampled per episode", "plain"),
    "unscored": ("Unscored", "samples per step that the judge could not score; they train nothing", "plain"),
    "grad_norm": ("Gradient norm", "before clipping", "plain"),
}
IMITATION_METRICS = {
    "nll": ("Surprise", "nats per imitated token (negative log-likelihood); lower is a better copy", "plain"),
    "grad_norm": ("Gradient norm", "before clipping", "plain"),
}


def own_budget(stage: Stage, step: float) -> dict[str, float]:
    """What the stage itself had spent on training before `step`."""
    events = [e for e in stage.trained if (number(e.get("step")) or 0.0) < step]
    return {"flops": sum(flops(e) for e in events), "seconds": sum(number(e.get("wall_s")) or 0.0 for e in events),
            "calls": sum(number(e.get("judge_calls")) or 0.0 for e in events)}


def offsets(run: RunData) -> dict[str, dict[str, float]]:
    """What had been spent, from the root on, when each stage began."""
    out: dict[str, dict[str, float]] = {}
    for name, stage in run.stages.items():
        out[name] = dict.fromkeys(AXES, 0.0) if stage.source is None else _end(run, out, stage.source)
    return out


def _end(run: RunData, starts: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    own = own_budget(run.stages[name], float("inf"))
    return {axis: starts[name][axis] + own[axis] for axis in AXES}


def trunk(recipe: Recipe) -> list[str]:
    """Stages that all arms share, root first; an only arm shares everything but itself."""
    paths = [recipe.path(name) for name in recipe.arms()]
    shared = [names[0] for names in zip(*paths, strict=False) if len(set(names)) == 1]
    return [n for n in shared if n not in recipe.arms()]


def proxy(run: RunData, stage: Stage) -> bool:
    """Whether the stage was trained by another judge than the gold one."""
    return stage.judge is not None and stage.judge != run.recipe.gold


def learning(run: RunData) -> Spec:
    """Score against budget: every stage against the first opponent, sampled and greedy, with the teacher's line."""
    start, shared = offsets(run), trunk(run.recipe)
    series = []
    for name, stage in run.stages.items():
        for decode in ("sampled", "greedy"):
            points = [_point(stage, e, start[name]) for e in stage.evaluations if _main(run, e, decode)]
            series.append(_line(name, stage.colour, decode, points, trunk=name in shared, arm=name in run.recipe.arms(),
                                hidden=proxy(run, stage)))
    branch = _end(run, start, shared[-1]) if shared else dict.fromkeys(AXES, 0.0)
    return _chart("curves", series, y="percent" if run.shares else "plain", ylabel=_against(run, run.metric), lines=_teacher(run),
                  axes=True, branch=branch, branch_name=shared[-1] if shared else None)


def rewards(run: RunData, stage: Stage, id: str) -> Spec:
    """The training judge's score and the gold one of a stage, evaluation by evaluation, over the stage's own FLOPs."""
    zero = dict.fromkeys(AXES, 0.0)
    series = []
    for decode in ("sampled", "greedy"):
        rows = [e for e in stage.evaluations if _main(run, e, decode)]
        for what, colour in (("reward", stage.colour), ("gold", INK)):
            points = [{**_point(stage, e, zero), "y": y, **_gold_interval(e, what)} for e in rows
                      if (y := number(e["extra"].get(what))) is not None]
            series.append(_line(what, colour, decode, points))
    bounded = all(0.0 <= p["y"] <= 1.0 for s in series for p in s["points"])
    return _chart(id, series, y="percent" if bounded else "plain", ylabel=_against(run, "score"),
                  xlabel=f"FLOPs spent in {stage.name}")


def probes(run: RunData, stage: Stage, id: str) -> Spec:
    """Reward and gold of the live audit's fresh samples, over the stage's own FLOPs."""
    series = []
    for what, colour in (("reward", stage.colour), ("gold", INK)):
        points = []
        for r in stage.probes:
            low, high = pair(r.get(f"{what}_ci95")) or (None, None)
            if (y := number(r.get(what))) is not None:
                x = own_budget(stage, number(r.get("step")) or 0.0)
                points.append({"x": x, "y": y, "lo": low, "hi": high, "n": number(r.get("n"))})
        series.append(_line(what, colour, "all", points))
    bounded = all(0.0 <= p["y"] <= 1.0 for s in series for p in s["points"])
    return _chart(id, series, y="percent" if bounded else "plain", ylabel="score of fresh samples",
                  xlabel=f"FLOPs spent in {stage.name}")


def training(run: RunData, kinds: tuple[str, ...], metrics: dict[str, tuple[str, str, str]]) -> list[Spec]:
    """One small chart per metric, one line per stage of the given kinds; charts of nothing but zeros are left out."""
    out = []
    for key, (title, caption, form) in metrics.items():
        series = [_line(s.name, s.colour, "all", _metric_points(s.metrics, key)) for s in run.stages.values()
                  if s.kind in kinds]
        if any(p["y"] for s in series for p in s["points"]):
            out.append(_chart(f"metric-{kinds[0]}-{key}", series, y=form, title=title, caption=caption, small=True))
    return out


def _line(name: str, colour: int, group: str, points: list[Row], *, trunk: bool = False, arm: bool = True,
          hidden: bool = False) -> Row:
    return {"name": name, "colour": colour, "group": group, "points": points, "trunk": trunk, "arm": arm,
            "hidden": hidden}


def _chart(id: str, series: list[Row], **more: Any) -> Spec:
    """What charts.js reads. y: percent or plain; axes: whether points have seconds and calls, too."""
    defaults = {"ylabel": "", "lines": [], "axes": False, "branch": dict.fromkeys(AXES, 0.0), "branch_name": None}
    return {"id": id, "series": [s for s in series if s["points"]], **defaults, **more}


def _main(run: RunData, e: Row, decode: str) -> bool:
    return e.get("decode") == decode and e.get("opponent") == run.opponent and number(e.get("value")) is not None


def _point(stage: Stage, e: Row, start: dict[str, float]) -> Row:
    own = own_budget(stage, number(e.get("step")) or 0.0)
    low, high = pair(e.get("ci95")) or (None, None)
    return {"x": {axis: start[axis] + own[axis] for axis in AXES}, "y": number(e.get("value")), "lo": low, "hi": high,
            "n": number(e.get("n"))}


def _against(run: RunData, metric: str) -> str:
    return metric if run.opponent == "none" else f"{metric} vs {run.opponent}"


def _teacher(run: RunData) -> list[Row]:
    """The teacher's line against the first opponent, if it has been measured; the right answers need none."""
    if run.teacher == GOLD:
        return []
    label = "the teacher" if run.teacher == "teacher" else f"{run.teacher}, the teacher"
    for p in run.players:
        if p["stage"] is None and p["name"] == run.teacher and p["extra"].get("opponent") == run.opponent:
            low, high = p["ci95"] or (None, None)
            return [{"label": label, "y": p["value"], "lo": low, "hi": high}]
    return []


def _gold_interval(e: Row, what: str) -> Row:
    """Only the headline has an interval on file; the gold score shares it where it is the same number."""
    gold, value = number(e["extra"].get("gold")), number(e.get("value"))
    same = what == "gold" and gold is not None and value is not None and abs(gold - value) < 1e-9
    return {} if same else {"lo": None, "hi": None}


def _metric_points(rows: list[Row], key: str) -> list[Row]:
    """(FLOPs in the stage, metric), at most _MOST_POINTS of them, each the mean of neighbouring steps."""
    xy = [(x, y) for r in rows
          if (x := number(r.get("flops"))) is not None and (y := number(r.get(key))) is not None]
    bins = min(len(xy), _MOST_POINTS)
    parts = [xy[a:b] for a, b in pairwise(i * len(xy) // bins for i in range(bins + 1))] if bins else []
    return [{"x": {"flops": part[-1][0]}, "y": sum(y for _, y in part) / len(part)} for part in parts]
