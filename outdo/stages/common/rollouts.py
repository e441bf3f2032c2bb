"""What stages that learn from their own samples share: options and checks, then the verbs of their loops.

prompts -> gather (sample, judge) -> groups -> credit (advantages) -> samples -> learn (minibatches through the optimiser).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from outdo import plugins
from outdo.errors import check
from outdo.evaluation.measure import part_means
from outdo.judges.base import make_judge
from outdo.plugins import Plugin
from outdo.recipe import Recipe, StageConfig
from outdo.stages.base import DataChecks, Given, Stage, check_known
from outdo.system import randomness
from outdo.types import LARGEST_SCORE, BoolArray, Finish, FloatArray, Group, Prompt, Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.algorithms.base import Algorithm
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.tasks.base import Task


class RolloutConfig(StageConfig):
    """How experience is gathered."""

    learns_from_scores: ClassVar[bool] = True

    prompts: int = Field(default=32, ge=1)  # per step
    group_size: int = Field(default=16, ge=1)  # samples per prompt
    split: str = "train"
    opponents: tuple[str, ...] = ()  # played in turns; empty: the task's first
    temperature: float = Field(default=1.0, gt=0)
    judge: Plugin | None = None  # None: the recipe's
    rollout: str | None = None  # who generates, in place of the engine: TRL's rollout_func as "my_rollouts.py:name"
    minibatch_tokens: int = Field(default=2048, ge=1)  # trained tokens per optimiser step
    epochs: int = Field(default=1, ge=1)  # passes over each step's samples
    # Rounds in which further prompts are sampled while fewer than `prompts` groups have a signal (DAPO's dynamic sampling).
    dynamic_sampling: int = Field(default=0, ge=0)
    mask_truncated: bool = False  # completions that ran out of tokens do not train; they stay in their group's baseline
    sample_from: Literal["policy", "start"] = "policy"  # "start": the weights that the stage starts from (off-policy)
    # Log-probabilities of the sampler against the trainer's own: "none" trusts the sampler's, "truncate" weighs tokens by their
    # ratio up to importance_cap, "mask" leaves out sequences whose mean ratio is beyond it (2508.17445).
    importance: Literal["none", "truncate", "mask"] = "none"
    importance_cap: float = Field(default=2.0, gt=1)
    stop_on_collapse: bool = False  # end the run if the reward collapses or no group differs any more (default: a warning)
    allow_no_signal: bool = False  # start even if the pre-flight check finds no learning signal


    @property
    def ends_by_itself(self) -> bool:
        """The number of steps follows from the number of prompts."""
        return True


_FEWEST_STEPS, _MOST_STEPS = 20, 200  # where they follow from the prompts


class Rollouts(Stage):
    """Base of the kinds that sample, are judged and train on what they sampled."""

    Config: ClassVar[type[RolloutConfig]]
    trained_share: ClassVar[float] = 1.0  # of the samples; for the plan

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """Opponents, judge, algorithm and rollout function must exist, and a group must fit into the slots."""
        from outdo.algorithms.base import make_algorithm  # seconds of imports

        config: RolloutConfig = self.config
        check_known(f"stage.{name}.opponents", config.opponents, task.opponents, task)
        if config.judge is not None:
            make_judge(config.judge).score([])  # it says what it lacks
        if config.rollout is not None:
            if given.rollout is None:
                check(callable(plugins.load(config.rollout)), f"stage.{name}.rollout = {config.rollout!r} cannot be called")
            check(task.one_reply, f"stage.{name}.rollout goes with tasks of text without tools or environments: the function "
                  "does its own turns, so let it call them")
        check(config.group_size <= recipe.slots, f"stage.{name}.group_size = {config.group_size} does not fit into "
              f"slots = {recipe.slots}; raise slots or lower group_size")
        algorithm = make_algorithm(self.algorithm())
        scored = not hasattr(config, "algorithm") or algorithm.learns_from_scores  # rejection imitates
        check(scored, f"stage.{name}.algorithm = {algorithm.name!r} does not learn from scores; there is grpo, rloo, ppo, dpo "
              "and more (docs/algorithms.md)")
        check(config.group_size > 1 or algorithm.advantages([1.0]) is not None, f"stage.{name}.group_size = 1: {algorithm.name} "
              "compares the samples of a prompt; raise group_size, or use ppo or reinforce_pp")
        anew = getattr(getattr(task, "config", None), "history", "append") == "render" and not task.one_reply
        check(not (anew and algorithm.paired), f"stage.{name}.algorithm = {algorithm.name!r} compares whole episodes, and this "
              "task renders every turn anew; set task.history = 'append', or use a policy gradient such as grpo")
        check(config.sample_from == "policy" or algorithm.reference_every is None, f"stage.{name}.sample_from = 'start' keeps "
              f"the weights of the start, and reference_every = {algorithm.reference_every} moves on; leave out one")
        check(config.sample_from == "policy" or not algorithm.critic or algorithm.critic_model, f"stage.{name}.sample_from = "
              "'start': a critic's values are those of the policy; set algorithm.critic = 'model', or use an algorithm without a "
              f"critic in place of {algorithm.name}")

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """One pass over the training prompts, within limits, unless the recipe says how long."""
        config: RolloutConfig = self.config
        if config.steps is not None or data.flops is not None:
            return {}
        size = data.task.size(config.split) or None
        steps = _MOST_STEPS if size is None else -(-size // config.prompts)
        return {"steps": min(max(steps, _FEWEST_STEPS), _MOST_STEPS)}

    def estimate(self, estimates: Estimates) -> StepCost:
        """Sampling all, training on the share that is kept."""
        from outdo.algorithms.base import make_algorithm  # seconds of imports

        return estimates.rollouts(self.config, self.trained_share, make_algorithm(self.algorithm()).critic_model)


def gather(loop: Loop, step: int, n: int | None = None) -> tuple[list[Group], Usage]:
    """Prompts -> trajectories -> scores, and what the algorithm needs of the reference. n: only the step's first prompts."""
    config: RolloutConfig = loop.config
    loop.refresh_reference(step)
    groups, usage = _sampled(loop, step, loop.prompts(step, config.prompts, config.split)[:n], loop.seed)
    for again in range(config.dynamic_sampling if n is None else 0):
        lacking = config.prompts - sum(_has_signal(g, loop.algorithm) for g in groups)
        if lacking <= 0:
            break
        seed = randomness.key(loop.seed, "further prompts", again)
        more, cost = _sampled(loop, step, loop.task.prompts(config.split, lacking, seed, step * config.prompts), seed)
        groups, usage = groups + more, usage + cost
    return groups, usage


def _sampled(loop: Loop, step: int, prompts: Sequence[Prompt], seed: int) -> tuple[list[Group], Usage]:
    """One round of `gather`."""
    config: RolloutConfig = loop.config
    engine = loop.frozen_engine or loop.engine
    if engine is loop.engine:
        engine.load(loop.trainer.steps, loop.trainer.head)
    trajectories, usage = loop.rollout(prompts, config.group_size, config.temperature, loop.opponent(step), seed, engine)
    scored = judged(loop, prompts, trajectories)
    usage += loop.judge_cost(len(trajectories))
    if loop.algorithm.reference or config.importance != "none" or loop.trainer.critic_model is not None:
        trajectories, cost = _compared(loop, trajectories)
        g = config.group_size
        scored = [replace(group, trajectories=tuple(trajectories[i * g : (i + 1) * g])) for i, group in enumerate(scored)]
        usage += cost
    return scored, usage


def _has_signal(group: Group, algorithm: Algorithm) -> bool:
    return algorithm.advantages([s.value for s in group.scores]) is not None


def _compared(loop: Loop, trajectories: Sequence[Trajectory]) -> tuple[list[Trajectory], Usage]:
    """The trajectories with what other models say of them: log-probs of the reference and of the trainer, the critic's values."""
    from outdo.stages.common.reference import whole  # seconds of imports

    config: RolloutConfig = loop.config
    rows, usage, out = [(p.token_ids, p.mask) for t in trajectories for p in t.pieces], Usage(), list(trajectories)
    if loop.algorithm.reference:
        assert loop.reference is not None
        found, usage = loop.reference.logprobs(rows, config.temperature)
        out = _filled(out, "ref_logprobs", found)
    if config.importance != "none":
        own, cost = whole(loop.model, loop.run.dtype, rows, config.optimizer.micro_tokens, config.temperature)
        usage += cost
        sampled = (p.logprobs for t in out for p in t.pieces)
        weights = [_capped(np.exp(a - b), mask, config) for a, b, (_, mask) in zip(own, sampled, rows, strict=True)]
        out = _filled(_filled(out, "logprobs", own), "weights", weights)
    if loop.trainer.critic_model is not None:
        values, cost = loop.trainer.values(rows)
        usage += cost
        out = _filled(out, "values", [_spread(mask, own) for own, (_, mask) in zip(values, rows, strict=True)])
    return out, usage


def _capped(weights: FloatArray, mask: BoolArray, config: RolloutConfig) -> FloatArray:
    """[T] what multiplies a token's advantage because the sampler's probability was not the trainer's."""
    if config.importance == "truncate":
        return np.minimum(weights, config.importance_cap).astype(np.float32)
    mean = float(np.exp(np.log(weights[mask]).mean())) if mask.any() else 1.0
    inside = 1.0 / config.importance_cap <= mean <= config.importance_cap
    return np.full(len(weights), float(inside), np.float32)


def _filled(trajectories: Sequence[Trajectory], key: str, arrays: Sequence[FloatArray]) -> list[Trajectory]:
    """The trajectories with an array for each of all their pieces."""
    left, out = iter(arrays), []
    for t in trajectories:
        changes: list[dict[str, Any]] = [{key: next(left)} for _ in t.pieces]
        earlier = tuple(replace(p, **change) for p, change in zip(t.earlier, changes, strict=False))
        out.append(replace(t, earlier=earlier, **changes[-1]))
    return out


def judged(loop: Loop, prompts: Sequence[Prompt], trajectories: Sequence[Trajectory]) -> list[Group]:
    """Put trajectories, in prompt order, into scored groups. Raises UserError for scores that are no numbers."""
    scores = loop.judge.score(trajectories)
    check(len(scores) == len(trajectories),
          f"judge {loop.judge.name} gave {len(scores)} scores for {len(trajectories)} trajectories; expected one each")
    for t, s in zip(trajectories, scores, strict=True):
        check(s.value is None or abs(s.value) <= LARGEST_SCORE, f"judge {loop.judge.name} scored sample {t.sample} of "
              f"{t.prompt_id} {s.value}; expected a finite number of at most {LARGEST_SCORE:g}, or None if the judge could not "
              "score it")
    g = len(trajectories) // len(prompts)
    return [Group(p, tuple(trajectories[i * g : (i + 1) * g]), tuple(scores[i * g : (i + 1) * g]))
            for i, p in enumerate(prompts)]


def credit(groups: Sequence[Group], algorithm: Algorithm, mask_truncated: bool = False) -> tuple[list[Sample], int]:
    """Samples with advantages, and the sampled tokens of what trains nothing (no score, or no difference in a group)."""
    kept: list[tuple[Trajectory, FloatArray, FloatArray | None, int]] = []  # with advantages [n], returns [n] and the group
    discarded = 0
    for number, group in enumerate(groups):
        values = [_reward(t, s.value, algorithm) for t, s in zip(group.trajectories, group.scores, strict=True)]
        advantages = algorithm.advantages(values) or [None] * len(values)
        mean = fmean([v for v in values if v is not None] or [0.0])
        for whole, value, advantage in zip(group.trajectories, values, advantages, strict=True):
            cut = mask_truncated and whole.finish == Finish.LENGTH
            for t in whole.pieces:
                if advantage is None or value is None or cut or not t.mask.any():
                    discarded += int(t.mask.sum())
                elif t.values is None:
                    kept.append((t, np.full(int(t.mask.sum()), advantage, np.float32), None, number))
                else:  # with a critic, advantages differ per token
                    own, returns = algorithm.per_token(value, mean, t.values[t.mask], _penalty(t, algorithm))
                    kept.append((t, own, returns, number))
    scaled = algorithm.normalise([own for _, own, _, _ in kept])
    return [_sample(t, own, returns, number if algorithm.paired else None)
            for (t, _, returns, number), own in zip(kept, scaled, strict=True)], discarded


def _sample(t: Trajectory, own: FloatArray, returns: FloatArray | None, pair: int | None) -> Sample:
    weighted = own if t.weights is None else own * t.weights[t.mask]
    expected = None if returns is None else _spread(t.mask, returns)
    return Sample(t.token_ids, t.mask, _spread(t.mask, weighted), t.logprobs, expected, t.ref_logprobs, pair)


def _spread(mask: BoolArray, own: FloatArray) -> FloatArray:
    """[n] -> [T], 0 where the mask is False."""
    out = np.zeros(len(mask), np.float32)
    out[mask] = own
    return out


def _penalty(t: Trajectory, algorithm: Algorithm) -> FloatArray | None:
    """[n] of the trajectory's sampled tokens."""
    return None if t.ref_logprobs is None else algorithm.penalty(t.logprobs[t.mask], t.ref_logprobs[t.mask])


def _reward(t: Trajectory, value: float | None, algorithm: Algorithm) -> float | None:
    """The score less the penalty of all tokens; a critic's algorithm takes that off token by token."""
    if value is None or algorithm.critic:
        return value
    return value - sum(float(p.sum()) for piece in t.pieces if (p := _penalty(piece, algorithm)) is not None)


def learn(loop: Loop, samples: Sequence[Sample], step: int) -> tuple[dict[str, float], Usage]:
    """Minibatch by minibatch through the optimiser -> metrics of the last one, and what all cost.

    logprob_gap is the first one's: before it, sampler and trainer have the same weights.
    """
    config: RolloutConfig = loop.config
    metrics, usage = dict[str, float](), Usage()
    for number, minibatch in enumerate(minibatches(samples, config, loop.seed, step)):
        trained, spent = loop.train(minibatch)
        usage += spent
        metrics |= {k: v for k, v in trained.items() if k != "logprob_gap" or number == 0}
    return metrics, usage


def minibatches(samples: Sequence[Sample], config: RolloutConfig, seed: int, step: int) -> list[list[Sample]]:
    """Shuffle whole trajectories into minibatches of about minibatch_tokens trained tokens, once per epoch."""
    out = []
    units = _units(samples)
    tokens = sum(int(s.mask.sum()) for s in samples)
    pieces = max(1, round(tokens / config.minibatch_tokens))
    for epoch in range(config.epochs if samples else 0):
        order = randomness.permutation(len(units), randomness.key(seed, "minibatches", step, epoch))
        out += [[s for i in part for s in units[i]] for part in np.array_split(order, min(pieces, len(units)))]
    return out


def _units(samples: Sequence[Sample]) -> list[list[Sample]]:
    """What stays together: pairs, and every other sample by itself."""
    pairs: dict[int, list[Sample]] = {}
    for i, s in enumerate(samples):
        pairs.setdefault(-1 - i if s.pair is None else s.pair, []).append(s)
    return list(pairs.values())


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """What the rollouts looked like, before any training."""
    values = [[s.value for s in g.scores if s.value is not None] for g in groups]
    flat = np.array([v for group in values for v in group])
    trajectories = [t for g in groups for t in g.trajectories]
    sampled = sum(t.sampled_tokens for t in trajectories)
    return {
        "reward": float(flat.mean()) if len(flat) else 0.0,
        **{f"reward/{name}": mean for name, mean in part_means([s for g in groups for s in g.scores]).items()},
        "unscored": float(sum(len(g.scores) for g in groups) - len(flat)),
        "zero_variance_groups": float(np.mean([len(set(v)) < 2 for v in values if len(v) != 1] or [False])),
        "entropy": -sum(float(p.logprobs.sum()) for t in trajectories for p in t.pieces) / max(sampled, 1),
        "tokens_per_episode": sampled / len(trajectories),
    }
