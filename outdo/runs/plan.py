"""What a run is going to do and cost, said before it begins: stages, budgets, FLOPs, estimated time, evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from outdo.evaluation import forgetting
from outdo.judges.base import make_judge
from outdo.models.base import LanguageModel, Sizes
from outdo.models.flops import forward_flops
from outdo.recipe import Recipe
from outdo.runs.check import Checked
from outdo.runs.resolve import compute_device, compute_dtype, default_lr
from outdo.stages.common.estimates import SAMPLE, Estimates, Length, StepCost, episode_flops, typical_length
from outdo.system import files, machine
from outdo.system.machine import DECODE_UTILISATION, UPDATE_UTILISATION
from outdo.system.progress import duration
from outdo.tasks.base import Task


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
    share: float  # of it, done by an earlier process
    judge_calls: float = 0.0  # of its own work
    evaluation_episodes: float = 0.0

    @property
    def done(self) -> bool:
        """Whether an earlier process finished it."""
        return self.share >= 1.0

    @property
    def left(self) -> float:
        """The share that is still to do."""
        return 1.0 - self.share

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
    lengths: str = "episodes as long as the reference players'"  # what the estimates take episodes for
    notes: tuple[str, ...] = ()  # what the task and the judges say of themselves

    @property
    def seconds(self) -> float:
        """What is still to do, estimated."""
        return sum(s.weight * s.left for s in self.stages)


def make(checked: Checked, folder: Path | None = None) -> Plan:
    """Plan a checked recipe; of a run that is resumed in `folder`, what is left to do. Writes no file. Raises UserError."""
    recipe, task = checked.recipe, checked.task
    dtype = compute_dtype(recipe)
    peak = machine.gemm_peak_flops(dtype, repeats=5, device=compute_device(recipe))
    tried_on = [s.split for s in recipe.stage.values() if s.learns_from_scores and hasattr(s, "split")]
    split, n = [*tried_on, recipe.evaluation.split][0], min(SAMPLE, recipe.evaluation.prompts or SAMPLE)
    typical = typical_length(task, split, n if recipe.plays else 0)
    stages = tuple(_stage(checked, name, typical, peak, _share_done(checked, name, folder)) for name in recipe.order())
    return Plan(recipe.name, stages, max(_plain(m) for m in checked.models.values()), peak,
                {torch.bfloat16: "bf16"}.get(dtype, "fp32"), torch.get_num_threads(), recipe.jobs, _evaluation(recipe, task),
                "episodes as long as the reference players'" if task.players else "replies half as long as they may get",
                _notes(checked))


def _plain(model: LanguageModel) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)


def _stage(checked: Checked, name: str, typical: Length, peak: float, share: float) -> StagePlan:
    recipe, model, stage = checked.recipe, checked.models[name], checked.recipe.stage[name]
    if stage.learns_from_scores and stage.source is None:  # random weights: nothing that they write goes on for long
        typical = Length(typical.tokens / typical.own, 1.0, typical.attended / typical.own**2, 0.0)
    step = checked.stages[name].estimate(Estimates(checked.task, model, typical, checked.given.rows))
    budget = recipe.budget_flops(name)
    steps = min(n for n in (stage.steps, budget / step.flops if budget else None) if n is not None)
    by_flops = budget is not None and steps != stage.steps
    flops = budget if by_flops and budget else steps * step.flops
    update_share = step.update_flops / step.flops
    seconds = flops * (update_share / UPDATE_UTILISATION + (1 - update_share) / DECODE_UTILISATION) / peak
    each = _evaluations(recipe, name, checked.task)
    evaluation = _evaluation_flops(recipe, name, each, model.config, typical)
    return StagePlan(name, recipe.parent(name), f"{flops:.3g} FLOPs" if by_flops else f"{stage.steps} steps", steps, flops,
                     seconds, evaluation, evaluation / (peak * DECODE_UTILISATION), _batch(recipe, name, step, model), share,
                     steps * step.judge_calls, each * (recipe.evaluation.samples + 1))


def _share_done(checked: Checked, name: str, folder: Path | None) -> float:
    """How much of a stage an earlier process has saved."""
    stage = folder / "stages" / name if folder is not None else None
    if stage is None or not stage.is_dir():
        return 0.0
    if (stage / "done.json").exists():
        return 1.0
    saved = max((int(p.name) for p in (stage / "checkpoints").glob("*") if p.name.isdigit()), default=0)
    spent = next((e["flops"] for e in reversed(list(files.read_lines(stage / "metrics.jsonl"))) if e["step"] < saved), 0.0)
    steps, flops = checked.recipe.stage[name].steps, checked.recipe.budget_flops(name)
    return min(max(saved / steps if steps else 0.0, spent / flops if flops else 0.0), 0.99)


def _batch(recipe: Recipe, name: str, step: StepCost, model: LanguageModel) -> str:
    """What a step trains on, from which checkpoint the stage starts and how much of the model trains."""
    stage = recipe.stage[name]
    start = f"; starts from {stage.source}" if stage.source and recipe.parent(name) is None else ""
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    usual = recipe.checkpoint(name) is not None and stage.optimizer.lr == default_lr(stage)
    what = _KINDS.get(stage.kind, f"kind = {stage.kind!r}") + (" with LoRA" if stage.lora else "")
    start += f"; learning rate {stage.optimizer.lr:g}" + (f" (the default for {what} from a checkpoint)" if usual else "")
    return step.batch + start + (f"; {trains:,} parameters train" if stage.lora or stage.freeze else "")


_KINDS = {"sft": "SFT", "rl": "RL", "pretrain": "pre-training", "preference": "preference optimisation",
          "reward_model": "reward models", "rejection": "rejection sampling", "distill": "distillation"}


def _evaluations(recipe: Recipe, name: str, task: Task) -> int:
    """How many prompts a stage is measured on: along its way, at its end, and before it where a tree starts."""
    e, parent = recipe.evaluation, recipe.parent(name)
    if not recipe.stage[name].writes:
        return 0
    root, start = parent is None, parent is None or not recipe.alike(name, parent)
    return e.prompts * (start + e.points - 1 + len(_opponents(recipe, task)) + len(e.also) * (1 + root))


def _evaluation_flops(recipe: Recipe, name: str, prompts: int, c: Sizes, typical: Length) -> float:
    """Of all measurements of a stage, sampled and greedy."""
    e = recipe.evaluation
    if not recipe.stage[name].writes:
        return 0.0
    flops = prompts * (e.samples * episode_flops(c, typical.sharing(1 / e.samples)) + episode_flops(c, typical))
    if e.corpus:
        T = min(forgetting.PASSAGE_TOKENS, c.max_position_embeddings)
        times = 1 + (recipe.parent(name) is None)
        flops += times * (e.corpus_tokens // T) * forward_flops(c, T, T * (T + 1) // 2, T - 1)
    return flops


def _opponents(recipe: Recipe, task: Task) -> tuple[str, ...]:
    return recipe.evaluation.opponents or task.opponents


def _evaluation(recipe: Recipe, task: Task) -> str:
    e = recipe.evaluation
    rows = [n for n, s in recipe.stage.items() if not s.tries_task
            and (getattr(s, "heldout", False) or getattr(s, "heldout_data", False))]
    loss = f"loss of {', '.join(rows)} on held-out rows, at the start and {e.points} points" if rows else "none"
    if e.prompts == 0:
        return loss
    first, everybody = task.opponents[0], ", ".join(_opponents(recipe, task))
    whom = "" if everybody == "none" else f" against {first}, at its end against {everybody}"
    further = [f"at its end on {', '.join(e.also)}"] * bool(e.also) + ["on the corpus"] * bool(e.corpus)
    return (f"{e.prompts:,} {e.split} prompts, sampled and greedy; at the start and {e.points} points of each stage{whom}"
            f"{''.join(f', {x}' for x in further)}; charged to no budget" + (f"; {loss}" if rows else ""))


def _notes(checked: Checked) -> tuple[str, ...]:
    own = [make_judge(judge) for s in checked.recipe.stage.values() if (judge := getattr(s, "judge", None))]
    said = [checked.task.describe(), *(j.describe() for j in (checked.judge, checked.gold, *own))]
    return tuple(dict.fromkeys(s for s in (*checked.notes, *said) if s))


# --- for people ------------------------------------------------------------------------------------------------------


def render(plan: Plan) -> RenderableType:
    """The plan as a tree of stages with the total underneath."""
    tree = Tree(Text.assemble((plan.name, "bold"), f"  {plan.parameters:,} parameters, {plan.dtype}"))
    nodes: dict[str | None, Tree] = {None: tree}
    for s in plan.stages:
        if s.done:
            line = Text(f"{s.name}  done", style="green")
        else:
            begun = f" ({s.share:.0%} done before)" if s.share else ""
            about = "" if s.budget.endswith("steps") else f" (about {s.steps:,.0f} steps)"
            cost = f", about {s.flops:.2g} FLOPs" if s.budget.endswith("steps") else ""
            line = Text.assemble((s.name, "bold"), f"  {s.budget}{about}{cost}, about {duration(s.seconds)}"
                                 f" + evaluations {s.evaluation_flops:.1e} FLOPs, {duration(s.evaluation_seconds)}{begun}")
        nodes[s.name] = nodes[s.source].add(line)
        if not s.done:
            line.append(f"\n{s.batch}", style="dim")
    left = [s for s in plan.stages if not s.done]
    total = Text.assemble("to do: ", (f"{sum(s.flops * s.left for s in left):.3g} FLOPs", "bold"), " + ",
                          f"{sum(s.evaluation_flops * s.left for s in left):.1e} for evaluations, about ",
                          (duration(plan.seconds), "bold"))
    threads = f"{plan.threads} thread{'s' * (plan.threads > 1)}"
    company = f"; where the tree branches, {plan.jobs} stages run side by side" if plan.jobs > 1 else ""
    basis = (f"times are estimates: {plan.peak_flops / 1e9:,.0f} GFLOP/s measured on {threads}, of which updates are "
             f"assumed to reach {UPDATE_UTILISATION:.0%} and generating {DECODE_UTILISATION:.0%} (small models reach "
             f"less), and {plan.lengths}{company}")
    return Group(tree, total, *(Text(line, style="dim") for line in (f"evaluation: {plan.evaluation}", *plan.notes, basis)))
