"""What a run is going to do and cost, said before it begins: stages, budgets, FLOPs, estimated time, evaluations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from outdo.evaluation import forgetting
from outdo.judges.base import Judge
from outdo.models.base import LanguageModel, Sizes
from outdo.models.flops import forward_flops, update_flops
from outdo.recipe import AnyStage, Imitation, Recipe, Rejection, Rollouts
from outdo.runs.run import Given, check_recipe, compute_device, compute_dtype, make_judge, resolved
from outdo.runs.start import skeleton
from outdo.system import machine, randomness
from outdo.system.machine import DECODE_UTILISATION, UPDATE_UTILISATION
from outdo.system.progress import duration
from outdo.tasks.base import Task
from outdo.text import render as rendering
from outdo.text.rows import Rows
from outdo.training.batch import families
from outdo.training.optimizer import step_flops
from outdo.types import Sample

_SAMPLE = 64  # reference episodes that say how long an episode is
_KEPT = 0.5  # share of its samples that a rejection stage is assumed to keep


@dataclass(frozen=True)
class Length:
    """A typical episode. Example: 71.3 tokens, of which 27.1 are the policy's own, 2,900 keys looked at, a prompt of 4."""

    tokens: float
    own: float
    attended: float
    prompt: float  # tokens before the policy's first

    def sharing(self, computed: float) -> Length:
        """What is left of it where only this share of the prompts is computed: samples of one prompt have it together."""
        spared = self.prompt * (1.0 - computed)
        return replace(self, tokens=self.tokens - spared, attended=self.attended - spared * (self.prompt + 1) / 2)


@dataclass(frozen=True)
class StagePlan:
    """One stage's share of the plan. All FLOPs and seconds are estimates unless the stage has a FLOP budget."""

    name: str
    source: str | None
    budget: str  # "8.0e+12 FLOPs" or "50 steps"
    steps: float
    flops: float
    seconds: float  # its own work
    evaluation_flops: float
    evaluation_seconds: float
    batch: str
    done: bool  # by an earlier process

    @property
    def weight(self) -> float:
        """Its part in the whole run's progress: estimated seconds, evaluations included."""
        return self.seconds + self.evaluation_seconds


@dataclass(frozen=True)
class Plan:
    """The whole run, stages in the order in which they run."""

    name: str
    stages: tuple[StagePlan, ...]
    parameters: int
    peak_flops: float  # per second, measured now
    dtype: str
    threads: int
    jobs: int
    evaluation: str
    notes: tuple[str, ...] = ()  # what the task and the judges say of themselves

    @property
    def seconds(self) -> float:
        """What is still to do, estimated."""
        return sum(s.weight for s in self.stages if not s.done)


def make(recipe: Recipe, done: Collection[str] = (), given: Given | None = None) -> Plan:
    """Check the recipe against its plug-ins and plan it. Touches no file; takes a second or two. Raises UserError."""
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    recipe = resolved(recipe, given)
    checked = check_recipe(recipe, given)
    task, judges = checked.task, (checked.judge, checked.gold)
    models = {name: skeleton(recipe, name, task) for name in recipe.order()}
    dtype = compute_dtype(recipe)
    peak = machine.gemm_peak_flops(dtype, repeats=5, device=compute_device(recipe))
    tried_on = [s.split for s in recipe.stage.values() if isinstance(s, Rollouts)]
    split, n = [*tried_on, recipe.evaluation.split][0], min(_SAMPLE, recipe.evaluation.prompts or _SAMPLE)
    typical = _typical(task, split, n if recipe.plays else 0)
    rows = given.rows if given else None
    stages = tuple(_stage(recipe, name, task, model, peak, typical, name in done, rows) for name, model in models.items())
    return Plan(recipe.name, stages, max(_plain(m) for m in models.values()), peak, {torch.bfloat16: "bf16"}.get(dtype, "fp32"),
                torch.get_num_threads(), recipe.jobs, _evaluation(recipe, task), _notes(recipe, task, judges))


def _plain(model: LanguageModel) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)


def _stage(recipe: Recipe, name: str, task: Task, model: LanguageModel, peak: float, typical: Length,
           done: bool, rows: Rows | None) -> StagePlan:
    stage, budget, c = recipe.stage[name], recipe.budget_flops(name), model.config
    if isinstance(stage, Rollouts) and stage.source is None:  # random weights: nothing that they write goes on for long
        typical = Length(typical.tokens / typical.own, 1.0, typical.attended / typical.own**2, 0.0)
    decode, update, batch = _step(stage, task, model, typical, rows)
    batch += f"; starts from {stage.source}" if stage.source and recipe.parent(name) is None else ""
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch += f"; {trains:,} parameters train" if stage.lora or stage.freeze else ""
    per_step = decode + update
    limits = [n for n in (stage.steps, budget / per_step if budget else None) if n is not None]
    steps = min(limits)
    by_flops = budget is not None and steps != stage.steps
    flops = budget if by_flops and budget else steps * per_step
    update_share = update / per_step
    seconds = flops * (update_share / UPDATE_UTILISATION + (1 - update_share) / DECODE_UTILISATION) / peak
    evaluation = _evaluation_flops(recipe, name, task, c, typical)
    return StagePlan(name, recipe.parent(name), f"{flops:.3g} FLOPs" if by_flops else f"{stage.steps} steps", steps, flops,
                     seconds, evaluation, evaluation / (peak * DECODE_UTILISATION), batch, done)


def _evaluation_flops(recipe: Recipe, name: str, task: Task, c: Sizes, typical: Length) -> float:
    """Of all measurements of a stage: along its way, at its end, and before it where a tree starts."""
    e, parent = recipe.evaluation, recipe.parent(name)
    root, start = parent is None, parent is None or not recipe.alike(name, parent)
    times = start + e.points - 1 + len(_opponents(recipe, task)) + len(e.also) * (1 + root)
    flops = e.prompts * times * (e.samples * _forward(c, typical.sharing(1 / e.samples)) + _forward(c, typical))
    if e.corpus:
        T = min(forgetting.PASSAGE_TOKENS, c.max_position_embeddings)
        flops += (1 + root) * (e.corpus_tokens // T) * forward_flops(c, T, T * (T + 1) // 2, T - 1)
    return flops


def _step(stage: AnyStage, task: Task, model: LanguageModel, typical: Length, rows: Rows | None) -> tuple[float, float, str]:
    """FLOPs of generating and of updating in one step of the stage's loop, and what its batch is, in words."""
    c, optimizer = model.config, step_flops(model, stage.optimizer)
    if isinstance(stage, Imitation) and stage.data is not None:
        rendered = rendering.preview(stage, task.tokenizer(), c.max_position_embeddings, _SAMPLE, rows)
        length = _mean_length([len(r.token_ids) for r in rendered], [r.trained_tokens for r in rendered], [0] * len(rendered))
        update = update_flops(c, round(length.tokens), round(length.attended), round(length.own))
        n = stage.episodes
        return 0.0, n * update + optimizer, f"{n} rows of {stage.data} per step, about {n * length.tokens:,.0f} tokens"
    if isinstance(stage, Imitation):
        length = _length(task, stage.player, stage.split, (stage.opponents or task.opponents)[0])
        heads = length.tokens if stage.train_on == "everything" else length.own
        update = update_flops(c, round(length.tokens), round(length.attended), round(heads))
        n = stage.episodes
        return 0.0, n * update + optimizer, f"{n} episodes of {stage.player!r} per step, about {n * length.tokens:,.0f} tokens"
    assert isinstance(stage, Rollouts)
    samples = stage.prompts * stage.group_size
    group = stage.group_size * (_KEPT if isinstance(stage, Rejection) else 1.0)  # of it, what trains
    minibatches = max(1, round(stage.prompts * group * typical.own / stage.minibatch_tokens))
    short = typical.sharing(_families(typical, group, minibatches) / group) if model.shares_prompts else typical
    update = stage.prompts * group * update_flops(c, round(short.tokens), round(short.attended), round(short.own))
    batch = (f"{stage.prompts} prompts x {stage.group_size} samples = {samples:,} episodes per step, "
             f"at most about {minibatches * stage.epochs} optimiser steps on them")
    return (samples * _forward(c, typical.sharing(1 / stage.group_size)), stage.epochs * (update + minibatches * optimizer),
            batch)


def _families(typical: Length, group: float, minibatches: int) -> float:
    """How often an update computes a prompt of which `group` samples train, dealt out to so many minibatches."""
    T = round(typical.tokens)
    sample = Sample(np.zeros(T, np.int64), np.arange(T) >= max(1, round(typical.prompt)), *np.zeros((2, T), np.float32))
    met = minibatches * (1.0 - (1.0 - 1.0 / minibatches) ** group)  # minibatches that get any of them, on average
    return float(max(met, len(families([sample] * round(group)))))


def _forward(c: Sizes, length: Length) -> float:
    return forward_flops(c, round(length.tokens), round(length.attended), round(length.own))


def _typical(task: Task, split: str, n: int) -> Length:
    """An episode of the policy, whose skill nobody knows yet: the mean over the reference players."""
    if not n:
        return Length(1.0, 1.0, 1.0, 0.0)
    if not task.players:
        own, prompts = task.turn_tokens / 2, [len(p.token_ids) for p in task.prompts(split, n, 0)]
        return _mean_length([p + round(own) for p in prompts], [own] * n, prompts)
    lengths = [_length(task, player, split, task.opponents[0], n) for player in task.players]
    return Length(*(float(np.mean([getattr(x, f) for x in lengths])) for f in ("tokens", "own", "attended", "prompt")))


def _length(task: Task, player: str, split: str, opponent: str, n: int = _SAMPLE) -> Length:
    prompts = task.prompts(split, n, 0)
    luck = np.array([randomness.key(0, p.id) for p in prompts], np.int64)
    games = task.play(player, prompts, luck, opponent)
    own, first = [int(g.mask.sum()) for g in games], [int(g.mask.argmax()) for g in games]
    return _mean_length([len(g.token_ids) for g in games], own, first)


def _mean_length(lengths: Sequence[int], own: Sequence[float], prompts: Sequence[int]) -> Length:
    n = np.array(lengths, np.float64)
    return Length(float(n.mean()), float(np.mean(own)), float((n * (n + 1) / 2).mean()), float(np.mean(prompts)))


def _opponents(recipe: Recipe, task: Task) -> tuple[str, ...]:
    return recipe.evaluation.opponents or task.opponents


def _evaluation(recipe: Recipe, task: Task) -> str:
    e = recipe.evaluation
    rows = [n for n, s in recipe.stage.items() if isinstance(s, Imitation) and s.data and (s.heldout or s.heldout_data)]
    loss = f"loss of {', '.join(rows)} on held-out rows, at the start and {e.points} points" if rows else "none"
    if e.prompts == 0:
        return loss
    first, everybody = task.opponents[0], ", ".join(_opponents(recipe, task))
    whom = "" if everybody == "none" else f" against {first}, at its end against {everybody}"
    further = [f"at its end on {', '.join(e.also)}"] * bool(e.also) + ["on the corpus"] * bool(e.corpus)
    return (f"{e.prompts:,} {e.split} prompts, sampled and greedy; at the start and {e.points} points of each stage{whom}"
            f"{''.join(f', {x}' for x in further)}; charged to no budget" + (f"; {loss}" if rows else ""))


def _notes(recipe: Recipe, task: Task, judges: Sequence[Judge]) -> tuple[str, ...]:
    own = [make_judge(s.judge) for s in recipe.stage.values() if isinstance(s, Rollouts) and s.judge]
    said = [task.describe(), *(j.describe() for j in (*judges, *own))]
    return tuple(dict.fromkeys(s for s in said if s))


# --- for people ------------------------------------------------------------------------------------------------------


def render(plan: Plan) -> RenderableType:
    """The plan as a tree of stages with the total underneath."""
    tree = Tree(Text.assemble((plan.name, "bold"), f"  {plan.parameters:,} parameters, {plan.dtype}"))
    nodes: dict[str | None, Tree] = {None: tree}
    for s in plan.stages:
        if s.done:
            line = Text(f"{s.name}  done", style="green")
        else:
            about = "" if s.budget.endswith("steps") else f" (about {s.steps:,.0f} steps)"
            cost = f", about {s.flops:.2g} FLOPs" if s.budget.endswith("steps") else ""
            line = Text.assemble((s.name, "bold"), f"  {s.budget}{about}{cost}, about {duration(s.seconds)}"
                                 f" + evaluations {s.evaluation_flops:.1e} FLOPs, {duration(s.evaluation_seconds)}")
        nodes[s.name] = nodes[s.source].add(line)
        if not s.done:
            line.append(f"\n{s.batch}", style="dim")
    left = [s for s in plan.stages if not s.done]
    total = Text.assemble("to do: ", (f"{sum(s.flops for s in left):.3g} FLOPs", "bold"), " + ",
                          f"{sum(s.evaluation_flops for s in left):.1e} for evaluations, about ",
                          (duration(plan.seconds), "bold"))
    threads = f"{plan.threads} thread{'s' * (plan.threads > 1)}"
    company = f"; where the tree branches, {plan.jobs} stages run side by side" if plan.jobs > 1 else ""
    basis = (f"times are estimates: {plan.peak_flops / 1e9:,.0f} GFLOP/s measured on {threads}, of which updates are "
             f"assumed to reach {UPDATE_UTILISATION:.0%} and generating {DECODE_UTILISATION:.0%} (small models reach "
             f"less), and episodes as long as the reference players', or half as long as they may get{company}")
    return Group(tree, total, *(Text(line, style="dim") for line in (f"evaluation: {plan.evaluation}", *plan.notes, basis)))
