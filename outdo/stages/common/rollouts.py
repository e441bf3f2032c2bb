"""What stages that learn from their own samples share: options and checks, then the verbs of their loops.

prompts -> gather (sample, judge) -> groups -> credit (advantages) -> samples -> learn (minibatches through the optimiser).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

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
from outdo.types import LARGEST_SCORE, Group, Prompt, Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.algorithms.base import Algorithm
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.tasks.base import Task


class RolloutConfig(StageConfig):
    """How experience is gathered."""

    learns_from_scores: ClassVar[bool] = True

    prompts: int = Field(default=32, ge=1)  # per step
    group_size: int = Field(default=16, ge=2)  # samples per prompt
    split: str = "train"
    opponents: tuple[str, ...] = ()  # played in turns; empty: the task's first
    temperature: float = Field(default=1.0, gt=0)
    judge: Plugin | None = None  # None: the recipe's
    rollout: str | None = None  # who generates, in place of the engine: TRL's rollout_func as "my_rollouts.py:name"
    minibatch_tokens: int = Field(default=2048, ge=1)  # trained tokens per optimiser step
    epochs: int = Field(default=1, ge=1)  # passes over each step's samples
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
            make_judge(config.judge)
        if config.rollout is not None:
            if given.rollout is None:
                check(callable(plugins.load(config.rollout)), f"stage.{name}.rollout = {config.rollout!r} cannot be called")
            check(task.one_reply, f"stage.{name}.rollout goes with tasks of text without tools or environments: the function "
                  "does its own turns, so let it call them")
        check(config.group_size <= recipe.slots, f"stage.{name}.group_size = {config.group_size} does not fit into "
              f"slots = {recipe.slots}; raise slots or lower group_size")
        make_algorithm(self.algorithm())

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
        return estimates.rollouts(self.config, self.trained_share)


def gather(loop: Loop, step: int, n: int | None = None) -> tuple[list[Group], Usage]:
    """Prompts -> trajectories -> scores. n: only the first prompts of the step."""
    config: RolloutConfig = loop.config
    prompts = loop.prompts(step, config.prompts, config.split)[:n]
    loop.engine.load(loop.trainer.steps, loop.trainer.critic)
    trajectories, usage = loop.rollout(prompts, config.group_size, config.temperature, loop.opponent(step), loop.seed)
    return judged(loop, prompts, trajectories), usage + loop.judge_cost(len(trajectories))


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


def credit(groups: Sequence[Group], algorithm: Algorithm) -> tuple[list[Sample], int]:
    """Samples with advantages, and the sampled tokens of what trains nothing (no score, or no difference in a group)."""
    samples: list[Sample] = []
    discarded = 0
    for group in groups:
        values = [s.value for s in group.scores]
        advantages = algorithm.advantages(values) or [None] * len(values)
        mean = fmean([v for v in values if v is not None] or [0.0])
        for whole, value, advantage in zip(group.trajectories, values, advantages, strict=True):
            for t in whole.pieces:
                if advantage is None or value is None or not t.mask.any():
                    discarded += int(t.mask.sum())
                elif t.values is None:
                    samples.append(Sample(t.token_ids, t.mask, (t.mask * advantage).astype(np.float32), t.logprobs))
                else:  # with a critic, advantages differ per token
                    own, returns = np.zeros((2, len(t.mask)), np.float32)
                    own[t.mask], returns[t.mask] = algorithm.per_token(value, mean, t.values[t.mask])
                    samples.append(Sample(t.token_ids, t.mask, own, t.logprobs, returns))
    return samples, discarded


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
    tokens = sum(int(s.mask.sum()) for s in samples)
    pieces = max(1, round(tokens / config.minibatch_tokens))
    for epoch in range(config.epochs if samples else 0):
        order = randomness.permutation(len(samples), randomness.key(seed, "minibatches", step, epoch))
        out += [[samples[i] for i in part] for part in np.array_split(order, min(pieces, len(samples)))]
    return out


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
        "zero_variance_groups": float(np.mean([len(set(v)) < 2 for v in values])),
        "entropy": -sum(float(p.logprobs.sum()) for t in trajectories for p in t.pieces) / max(sampled, 1),
        "tokens_per_episode": sampled / len(trajectories),
    }
