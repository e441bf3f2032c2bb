"""rl: try, be judged, do more of what was judged better than the rest of its group. Sparse signal, paid per token."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

import numpy as np

from outdo.algorithms.base import Algorithm
from outdo.errors import check
from outdo.recipe import Rl, Rollouts
from outdo.stages.loop import Loop
from outdo.system import randomness
from outdo.types import Group, Prompt, Sample, Trajectory, Usage


def reinforce(loop: Loop) -> None:
    """Rollouts -> scores -> advantages -> a few optimiser steps, until the budget is spent."""
    config = loop.config
    assert isinstance(config, Rl)
    for step in loop.steps():
        groups, usage = gather(loop, step)
        samples, discarded = credit(groups, loop.algorithm)
        usage += Usage(discarded_tokens=discarded)
        trained, spent = learn(loop, samples, step)
        loop.keep_rollouts("train", groups[:1])
        loop.book(usage + spent, {**describe(groups), **loop.judge.logged(), **trained})


def gather(loop: Loop, step: int, n: int | None = None) -> tuple[list[Group], Usage]:
    """Prompts -> trajectories -> scores. n: only the first prompts of the step."""
    config = loop.config
    assert isinstance(config, Rollouts)
    prompts = loop.prompts(step, config.prompts, config.split)[:n]
    loop.engine.load(loop.trainer.steps, loop.trainer.critic)
    trajectories, usage = loop.rollout(prompts, config.group_size, config.temperature, loop.opponent(step), loop.seed)
    return judged(loop, prompts, trajectories), usage + loop.judge_cost(len(trajectories))


def judged(loop: Loop, prompts: Sequence[Prompt], trajectories: Sequence[Trajectory]) -> list[Group]:
    """Put trajectories, in prompt order, into scored groups. Raises UserError for scores that are no numbers."""
    scores = loop.judge.score(trajectories)
    check(len(scores) == len(trajectories),
          f"judge {loop.judge.name} gave {len(scores)} scores for {len(trajectories)} trajectories; it owes one for each")
    for t, s in zip(trajectories, scores, strict=True):
        check(s.value is None or isfinite(s.value), f"judge {loop.judge.name} scored sample {t.sample} of {t.prompt_id} "
              f"{s.value}; a score is a finite number, or None where the judge cannot say")
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
        for t, value, advantage in zip(group.trajectories, values, advantages, strict=True):
            if advantage is None or value is None or not t.mask.any():
                discarded += int(t.mask.sum())
            elif t.values is None:
                samples.append(Sample(t.token_ids, t.mask, (t.mask * advantage).astype(np.float32), t.logprobs))
            else:  # a critic knows better than to give every token the same
                own, returns = np.zeros((2, len(t.mask)), np.float32)
                own[t.mask], returns[t.mask] = algorithm.per_token(value, mean, t.values[t.mask])
                samples.append(Sample(t.token_ids, t.mask, own, t.logprobs, returns))
    return samples, discarded


def learn(loop: Loop, samples: Sequence[Sample], step: int) -> tuple[dict[str, float], Usage]:
    """Minibatch by minibatch through the optimiser -> metrics of the last one, and what all cost.

    logprob_gap is the first one's: before it, sampler and trainer have the same weights.
    """
    config = loop.config
    assert isinstance(config, Rollouts)
    metrics, usage = dict[str, float](), Usage()
    for number, minibatch in enumerate(minibatches(samples, config, loop.seed, step)):
        trained, spent = loop.train(minibatch)
        usage += spent
        metrics |= {k: v for k, v in trained.items() if k != "logprob_gap" or number == 0}
    return metrics, usage


def minibatches(samples: Sequence[Sample], config: Rollouts, seed: int, step: int) -> list[list[Sample]]:
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
    sampled = sum(int(t.mask.sum()) for t in trajectories)
    return {
        "reward": float(flat.mean()) if len(flat) else 0.0,
        "unscored": float(sum(len(g.scores) for g in groups) - len(flat)),
        "zero_variance_groups": float(np.mean([len(set(v)) < 2 for v in values])),
        "entropy": -sum(float(t.logprobs.sum()) for t in trajectories) / max(sampled, 1),
        "tokens_per_episode": sampled / len(trajectories),
    }
