"""Learning curves, training metrics and rewards as chart specifications that `charts.js` draws."""

from __future__ import annotations

from typing import Any

from outdo.recipe import Recipe
from outdo.report.data import Row, RunData, Stage, flops
from outdo.report.format import number, pair

AXES = ("flops", "seconds", "calls")
Spec = dict[str, Any]
_MOST_POINTS = 160  # of one line among the small multiples; neighbours are averaged into bins

# metric in metrics.jsonl -> title, how to read it, number format
ROLLOUT_METRICS = {
    "reward": ("Reward", "mean score that the judge gave to the games sampled for training", "plain"),
    "entropy": ("Entropy", "nats per sampled token: how undecided the model still is; near 0 it plays one line only", "plain"),
    "zero_variance_groups": ("Groups that teach nothing", "share of groups whose games all scored the same", "percent"),
    "clip_fraction": ("Clipped tokens", "share of tokens whose update was cut off as too far from the sampling policy",
                      "percent"),
    "logprob_gap": ("Sampler–trainer gap", "mean |log-probability difference| at each step's first update, in nats; 0 is "
                    "exactly on-policy", "plain"),
    "kl": ("Step size (KL)", "how far the policy moved from the one that sampled, nats per token, last minibatch", "plain"),
    "kept": ("Wins kept", "games per step that rejection imitated", "plain"),
    "tokens_per_episode": ("Length of play", "tokens sampled per game", "plain"),
    "unscored": ("Unscored", "games per step about which the judge could not say anything; they train nothing", "plain"),
    "grad_norm": ("Gradient norm", "before clipping", "plain"),
}
IMITATION_METRICS = {
    "nll": ("Surprise", "nats per imitated token (negative log-likelihood); lower is a better copy", "plain"),
    "loss": ("Loss", "what the optimiser minimises", "plain"),
    "grad_norm": ("Gradient norm", "before clipping", "plain"),
    "padding_waste": ("Padding", "share of processed positions that held no token", "percent"),
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
        if stage.source is None:
            out[name] = dict.fromkeys(AXES, 0.0)
        else:
            before, own = out[stage.source], own_budget(run.stages[stage.source], float("inf"))
            out[name] = {axis: before[axis] + own[axis] for axis in AXES}
    return out


def trunk(recipe: Recipe) -> list[str]:
    """Stages that all arms share, root first; an only arm shares everything but itself."""
    paths = [recipe.path(name) for name in recipe.arms()]
    shared = [names[0] for names in zip(*paths, strict=False) if len(set(names)) == 1]
    return [n for n in shared if n not in recipe.arms()]


def learning(run: RunData) -> Spec:
    """Score against budget: every stage against the first opponent, sampled and greedy, with the teacher's line."""
    start, shared = offsets(run), trunk(run.recipe)
    at_branch = {axis: 0.0 for axis in AXES}
    if shared:
        own = own_budget(run.stages[shared[-1]], float("inf"))
        at_branch = {axis: start[shared[-1]][axis] + own[axis] for axis in AXES}
    series = []
    for name, stage in run.stages.items():
        for decode in ("sampled", "greedy"):
            points = [_point(stage, e, start[name]) for e in stage.evaluations if _main(run, e, decode)]
            if points:
                series.append({"name": name, "kind": stage.kind, "colour": stage.colour, "group": decode, "points": points,
                               "trunk": name in shared, "arm": name in run.recipe.arms(), "hidden": proxy(run, stage)})
    return {"series": series, "branch": at_branch, "branch_name": shared[-1] if shared else None, "y": "percent",
            "ylabel": f"{run.metric} vs {run.opponent}", "lines": _reference_lines(run), "axes": True}


def proxy(run: RunData, stage: Stage) -> bool:
    """Whether the stage was trained by another judge than the gold one."""
    return stage.judge is not None and stage.judge != run.recipe.gold


def _main(run: RunData, e: Row, decode: str) -> bool:
    return e.get("decode") == decode and e.get("opponent") == run.opponent and number(e.get("value")) is not None


def _point(stage: Stage, e: Row, start: dict[str, float]) -> Row:
    own = own_budget(stage, number(e.get("step")) or 0.0)
    low, high = pair(e.get("ci95")) or (None, None)
    return {"x": {axis: start[axis] + own[axis] for axis in AXES}, "y": number(e.get("value")), "lo": low, "hi": high,
            "n": number(e.get("n")), "step": number(e.get("step"))}


def _reference_lines(run: RunData) -> list[Row]:
    out = []
    for p in run.players:
        if p.get("stage") is None and p.get("name") == run.teacher and p["extra"].get("opponent") == run.opponent:
            low, high = pair(p.get("ci95")) or (None, None)
            out.append({"label": f"{run.teacher} (the teacher)", "y": number(p.get("value")), "lo": low, "hi": high,
                        "n": number(p.get("n"))})
    return out[:1]


def rewards(run: RunData, stage: Stage) -> Spec:
    """The training judge's score and the gold one of a stage, evaluation by evaluation, over the stage's own FLOPs."""
    zero = dict.fromkeys(AXES, 0.0)
    series = []
    for decode in ("sampled", "greedy"):
        rows = [e for e in stage.evaluations if _main(run, e, decode)]
        for what, label, colour in (("reward", f"reward ({stage.judge.name if stage.judge else ''})", stage.colour),
                                    ("gold", f"gold ({run.recipe.gold.name})", 10)):
            points = [{**_point(stage, e, zero), "y": y, **_gold_interval(e, what)} for e in rows
                      if (y := number((e.get("extra") or {}).get(what))) is not None]
            if points:
                series.append({"name": label, "kind": what, "colour": colour, "group": decode, "points": points, "trunk": False,
                               "arm": True, "hidden": False})
    ys = [p["y"] for s in series for p in s["points"]]
    bounded = all(0.0 <= y <= 1.0 for y in ys)
    return {"series": series, "branch": zero, "branch_name": None, "y": "percent" if bounded else "plain", "lines": [],
            "ylabel": f"score vs {run.opponent}", "axes": False, "xlabel": f"FLOPs spent in {stage.name}"}


def _gold_interval(e: Row, what: str) -> Row:
    """Only the headline has an interval on file; the gold score shares it where it is the same number."""
    gold, value = number((e.get("extra") or {}).get("gold")), number(e.get("value"))
    same = what == "gold" and gold is not None and value is not None and abs(gold - value) < 1e-9
    return {} if same else {"lo": None, "hi": None}


def training(run: RunData, kinds: tuple[str, ...], metrics: dict[str, tuple[str, str, str]]) -> list[Spec]:
    """One small chart per metric, one line per stage of the given kinds."""
    stages = [s for s in run.stages.values() if s.kind in kinds and s.metrics]
    out = []
    for key, (title, caption, form) in metrics.items():
        series = [{"name": s.name, "kind": s.kind, "colour": s.colour, "group": "all", "points": points, "trunk": False,
                   "arm": True, "hidden": False}
                  for s in stages if (points := _metric_points(s.metrics, key))]
        if series:
            out.append({"id": f"metric-{kinds[0]}-{key}", "title": title, "caption": caption, "series": series, "lines": [],
                        "branch": dict.fromkeys(AXES, 0.0), "branch_name": None, "y": form, "ylabel": "", "axes": False,
                        "small": True, "xlabel": "FLOPs spent in the stage"})
    return out


def _metric_points(rows: list[Row], key: str) -> list[Row]:
    """(FLOPs in the stage, metric), at most _MOST_POINTS of them, each the mean of neighbouring steps."""
    xy = [(x, y) for r in rows
          if (x := number(r.get("flops"))) is not None and (y := number(r.get(key))) is not None]
    edges = [i * len(xy) // _MOST_POINTS for i in range(_MOST_POINTS + 1)] if len(xy) > _MOST_POINTS else range(len(xy) + 1)
    out = []
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        part = xy[a:b]
        mean_y = sum(y for _, y in part) / len(part)
        out.append({"x": {"flops": part[-1][0]}, "y": mean_y, "lo": None, "hi": None, "n": len(part)})
    return out
