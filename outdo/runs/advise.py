"""Probes for advice: a few samples of the start, scored by judge and gold, and the demonstrations. Writes nothing but a
temporary folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outdo.advice import record
from outdo.advice.base import Measured, Share
from outdo.audit import again
from outdo.audit.audit import make_checks
from outdo.errors import UserError, check
from outdo.evaluation.agreement import within_auc
from outdo.evaluation.stats import best_of_k, wilson
from outdo.models.flops import update_flops
from outdo.recipe import Recipe, parse
from outdo.runs.check import Checked, check_recipe
from outdo.runs.references import random_numbers
from outdo.runs.resolve import compute_device, compute_dtype, resolve
from outdo.runs.run import begin
from outdo.runs.start import model_of
from outdo.stages.common import rollouts
from outdo.stages.common.loop import Loop
from outdo.system import machine
from outdo.types import Finish, Group, Score, Trajectory

PROBE = "probe"
_PROMPTS, _SAMPLES, _DEMONSTRATIONS = 24, 8, 64


def rate(recipe: Recipe) -> float:
    """FLOPs a second that training reaches here, by the measured peak."""
    resolved = resolve(recipe)
    peak = machine.gemm_peak_flops(compute_dtype(resolved), repeats=5, device=compute_device(resolved))
    return peak * machine.UPDATE_UTILISATION


def probing(recipe: Recipe, start: str | None = None) -> Recipe:
    """The recipe with one stage of RL from the checkpoint or the random weights that its tree begins with."""
    data = recipe.model_dump(mode="json", by_alias=True)
    source = start or recipe.checkpoint(recipe.arms()[0])
    learning = next((s for s in recipe.stage.values() if s.learns_from_scores), None)
    kept = {} if learning is None else {k: v for k, v in learning.model_dump(mode="json", by_alias=True).items()
                                        if k in ("judge", "split", "temperature", "opponents", "rollout") and v}
    if (met := recipe.evaluation.opponents[:1]) and "opponents" not in kept:
        kept["opponents"] = met  # who it is measured against
    begin = {"from": source} if source else {}
    stage = {"kind": "rl", **kept, **begin, "steps": 1, "prompts": _PROMPTS, "group_size": _SAMPLES}
    data["stage"] = {PROBE: stage}
    data.pop("audit", None)
    return parse({k: v for k, v in data.items() if v is not None})


def probe(recipe: Recipe, start: str | None, say: Callable[[str], None]) -> tuple[Measured, float, str]:
    """What a few samples show, the FLOPs that they took, and the question's key (`advice.record`). Raises UserError."""
    checked = check_recipe(resolve(probing(recipe, start)))
    check(checked.recipe.evaluation.prompts > 0 or checked.task.size("train") != 0, "the task has no prompts to probe")
    with tempfile.TemporaryDirectory(prefix="outdo-advise-") as folder:
        state = begin(checked, Path(folder), lambda stage, share, text: None)
        model = model_of(checked.recipe, PROBE, checked.task, Path(folder))
        loop = Loop(state, PROBE, model, checked.stages[PROBE])
        say(f"sampling {_PROMPTS} prompts x {_SAMPLES}")
        groups, usage = rollouts.gather(loop, 0)
        say("demonstrations")
        demonstrations = _demonstrations(checked, loop.opponent(0))
        say("audit of the reward")
        audit = _audit(loop)
        flops = usage.flops
        m = _measured(loop, groups, flops, demonstrations, audit, start or recipe.checkpoint(recipe.arms()[0]) or "")
    return m, flops, record.key(checked.recipe.task.model_dump(), checked.recipe.judge.model_dump(), m.start)


def _measured(loop: Loop, groups: Sequence[Group], flops: float, demonstrations: Share | None, audit: tuple[str, ...],
              start: str) -> Measured:
    trajectories = [t for g in groups for t in g.trajectories]
    gold = _array(loop.run.gold.score(trajectories), len(groups))
    judge = _array([s for g in groups for s in g.scores], len(groups))
    low, high = min(0.0, float(np.nanmin(gold))), max(1.0, float(np.nanmax(gold)))
    gold = (gold - low) / (high - low)
    known = ~np.isnan(gold).any(1)
    check(bool(known.any()), f"gold could score none of {len(trajectories)} samples; mend the gold judge, or its columns")
    gold, judge = gold[known], judge[known]
    P, K = gold.shape
    same = np.array([len(set(row[~np.isnan(row)])) < 2 for row in judge])
    rate = gold.mean(1)
    middle = (rate >= 0.2) & (rate <= 0.8)
    auc = None
    if loop.judge is not loop.run.gold:
        right = gold > 0.5
        e = within_auc(np.nan_to_num(judge).ravel(), right.ravel(), np.repeat(np.arange(P), K))
        auc = Share(e.value, e.low, e.high, e.n) if e.n >= 5 else None
    lengths = [len(t.token_ids) for t in trajectories]
    config: Any = loop.model.config
    length, own = int(np.mean(lengths)), int(np.mean([t.sampled_tokens for t in trajectories]))
    learned = update_flops(config, length, length**2 // 2, own)
    return Measured(
        score=_mean(rate), best=_mean(best_of_k(gold, gold, K)), k=K,
        chosen=_mean(best_of_k(np.nan_to_num(judge, nan=-1e30), gold, K)),
        same=Share(float(same.mean()), *wilson(int(same.sum()), P), P),
        middle=Share(float(middle.mean()), *wilson(int(middle.sum()), P), P),
        truncated=float(np.mean([t.finish == Finish.LENGTH for t in trajectories])),
        tokens=float(np.mean([t.sampled_tokens for t in trajectories])), turns=not loop.task.one_reply, auc=auc, audit=audit,
        demonstrations=demonstrations, start=start, flops_sample=flops / len(trajectories), flops_update=learned)


def _array(scores: Sequence[Score], prompts: int) -> Any:
    return np.array([np.nan if s.value is None else s.value for s in scores], np.float64).reshape(prompts, -1)


def _mean(x: Any) -> Share:
    mean, n = float(x.mean()), len(x)
    if set(np.unique(x)) <= {0.0, 1.0}:
        return Share(mean, *wilson(int(x.sum()), n), n)
    half = 1.96 * max(float(x.std(ddof=1)) if n > 1 else 0.5, 1.0 / n) / math.sqrt(n)
    return Share(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def _demonstrations(checked: Checked, opponent: str) -> Share | None:
    """The score of what the recipe would imitate: a player of the task, or the rows' own answers."""
    task = checked.task
    player = next((p for p in ("teacher", "gold") if p in task.players), None)
    if player is None:
        return None
    prompts = task.prompts("train", _DEMONSTRATIONS, 1)
    try:
        played: list[Trajectory] = task.play(player, prompts, random_numbers(prompts, 7), opponent)
    except UserError:
        return None
    scores = [s.value for s in checked.gold.score(played) if s.value is not None]
    return _mean(np.clip(np.array(scores, np.float64), 0.0, 1.0)) if scores else None


def _audit(loop: Loop) -> tuple[str, ...]:
    if not loop.task.one_reply or loop.judge.name in ("llm", "engine", "reward_model", "examples", "code"):
        return ()
    rows = [dict(p.row) for p in loop.task.prompts(loop.config.split, 12, loop.seed)]
    try:
        found = again.look(loop.judge, rows, [c.id for c in make_checks() if c.cheap])
    except UserError:
        return ()
    return tuple(f"{f.verdict} {f.id} {f.title}: {f.said}" for f in found if f.verdict in ("FAIL", "WARN"))
