"""What one step of a stage costs, estimated before it runs: FLOPs from the lengths of episodes and rows that there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outdo.models.base import LanguageModel, Sizes
from outdo.models.flops import forward_flops, update_flops
from outdo.stages.common.data import first_used
from outdo.stages.common.imitation import ImitationConfig
from outdo.stages.common.pairs import PairConfig
from outdo.stages.common.rollouts import RolloutConfig
from outdo.system import randomness
from outdo.tasks.base import Task
from outdo.text import render
from outdo.text.pairs import answers
from outdo.text.rows import Rows, load
from outdo.training.batch import families
from outdo.training.optimizer import step_flops
from outdo.types import Sample

SAMPLE = 64  # reference episodes, or rows, that say how long an episode is


@dataclass(frozen=True)
class StepCost:
    """One step of a stage's loop: FLOPs of generating and of updating, and what its batch is, in words."""

    generate_flops: float
    update_flops: float
    batch: str
    judge_calls: float = 0.0

    @property
    def flops(self) -> float:
        """Of both."""
        return self.generate_flops + self.update_flops


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
class Estimates:
    """Estimates for the stages that train one model on one task. typical: an episode of the policy."""

    task: Task
    model: LanguageModel
    typical: Length
    rows: Rows | None = None  # given from Python in place of a stage's `data`

    def imitation(self, config: ImitationConfig) -> StepCost:
        """Of a step that imitates a player's episodes or rows of data."""
        if config.data is not None:
            rendered = render.preview(config, self.task.tokenizer(), self.model.config.max_position_embeddings, SAMPLE, self.rows)
            sizes = [len(r.token_ids) for r in rendered]
            length = mean_length(sizes, [r.trained_tokens for r in rendered], [0] * len(rendered))
            heads, what = length.own, f"rows of {config.data}"
        else:
            length = played_length(self.task, config.player, config.split, (config.opponents or self.task.opponents)[0])
            heads = length.tokens if config.train_on == "everything" else length.own
            what = f"episodes of {config.player!r}"
        n, optimizer = config.episodes, step_flops(self.model, config.optimizer)
        update = update_flops(self.model.config, round(length.tokens), round(length.attended), round(heads))
        return StepCost(0.0, n * update + optimizer, f"{n} {what} per step, about {n * length.tokens:,.0f} tokens",
                        n if getattr(config, "judge", None) is not None else 0)

    def preferences(self, config: PairConfig, referred: bool = True) -> StepCost:
        """Of a step on pairs: both answers train, and a reference reads them if there is one; own pairs are sampled first."""
        c = self.model.config
        if config.pairs is not None:
            length, steps = self.typical, config.steps or -(-config.pairs * config.epochs // config.episodes)
            passes = (round(length.tokens), round(length.attended), round(length.own))
            each = update_flops(c, *passes) + (forward_flops(c, *passes) if referred else 0.0)
            return StepCost(2 * config.pairs / steps * episode_flops(c, length),
                            2 * config.episodes * each + step_flops(self.model, config.optimizer),
                            f"{config.episodes} of {config.pairs:,} pairs of its own samples per step", 2 * config.pairs / steps)
        rendering = render.renderer(config, self.task.tokenizer(), self.model.config.max_position_embeddings)
        loaded = self.rows if self.rows is not None else load(
            config.data, config.data_split, config.stream, config.columns, config.documents)
        looked = first_used(config, loaded, SAMPLE)
        both = [r for _, row in looked for r in answers(rendering, row)]
        length = mean_length([len(r.token_ids) for r in both], [r.trained_tokens for r in both], [0] * len(both))
        n = config.episodes * len(both) / len(looked)
        passes = (round(length.tokens), round(length.attended), round(length.own))
        read = forward_flops(c, *passes) if referred else 0.0
        flops = n * (update_flops(c, *passes) + read) + step_flops(self.model, config.optimizer)
        return StepCost(0.0, flops, f"{config.episodes} rows of {config.data} per step, about {n * length.tokens:,.0f} tokens")

    def distillation(self, config: Any) -> StepCost:
        """Of a step that samples (without data), trains, and reads with a teacher taken to be as large as the policy.

        What a teacher behind a server computes is not known and not counted.
        """
        c, optimizer = self.model.config, step_flops(self.model, config.optimizer)
        if config.data is not None:
            rendered = render.preview(config, self.task.tokenizer(), c.max_position_embeddings, SAMPLE, self.rows)
            sizes = [len(r.token_ids) for r in rendered]
            n, length = config.episodes, mean_length(sizes, [r.trained_tokens for r in rendered], [0] * len(rendered))
            generate, what = 0.0, f"{n} rows of {config.data}"
        else:
            n, length = config.prompts * config.group_size, self.typical
            generate, what = n * episode_flops(c, length), f"{n} samples of the {config.samples_of}"
        passes = (round(length.tokens), round(length.attended), round(length.own))
        read = 0.0 if config.teacher_server else forward_flops(c, *passes)
        return StepCost(generate, n * (update_flops(c, *passes) + read) + optimizer, f"{what} per step")

    def rollouts(self, config: RolloutConfig, trained_share: float, critic_model: bool = False) -> StepCost:
        """Of a step that samples groups and trains on a share of the samples, with a critic as large as the policy or without."""
        typical, c, optimizer = self.typical, self.model.config, step_flops(self.model, config.optimizer)
        samples = config.prompts * config.group_size
        group = config.group_size * trained_share
        minibatches = max(1, round(config.prompts * group * typical.own / config.minibatch_tokens))
        short = typical.sharing(_families(typical, group, minibatches) / group) if self.model.shares_prompts else typical
        passes = (round(short.tokens), round(short.attended), round(short.own))
        update, read = config.prompts * group * update_flops(c, *passes), 0.0
        if critic_model:
            update, optimizer = update + config.prompts * group * update_flops(c, *passes, outputs=1), 2 * optimizer
            read = forward_flops(c, round(typical.tokens), round(typical.attended), round(typical.own), outputs=1)
        batch = (f"{config.prompts} prompts x {config.group_size} samples = {samples:,} episodes per step, "
                 f"at most about {minibatches * config.epochs} optimiser steps on them")
        return StepCost(samples * (episode_flops(c, typical.sharing(1 / config.group_size)) + read),
                        config.epochs * (update + minibatches * optimizer), batch, samples)


def _families(typical: Length, group: float, minibatches: int) -> float:
    """How often an update computes a prompt of which `group` samples train, dealt out to so many minibatches."""
    T = round(typical.tokens)
    sample = Sample(np.zeros(T, np.int64), np.arange(T) >= max(1, round(typical.prompt)), *np.zeros((2, T), np.float32))
    met = minibatches * (1.0 - (1.0 - 1.0 / minibatches) ** group)  # minibatches that get any of them, on average
    return float(max(met, len(families([sample] * round(group)))))


def episode_flops(c: Sizes, length: Length) -> float:
    """Of generating one."""
    return forward_flops(c, round(length.tokens), round(length.attended), round(length.own))


def typical_length(task: Task, split: str, n: int) -> Length:
    """An episode of the policy, whose skill nobody knows yet: the mean over the reference players."""
    if not n:
        return Length(1.0, 1.0, 1.0, 0.0)
    if not task.players:
        own, prompts = task.turn_tokens / 2, [len(p.token_ids) for p in task.prompts(split, n, 0)]
        return mean_length([p + round(own) for p in prompts], [own] * n, prompts)
    lengths = [played_length(task, player, split, task.opponents[0], n) for player in task.players]
    return Length(*(float(np.mean([getattr(x, f) for x in lengths])) for f in ("tokens", "own", "attended", "prompt")))


def played_length(task: Task, player: str, split: str, opponent: str, n: int = SAMPLE) -> Length:
    """An episode of a reference player."""
    prompts = task.prompts(split, n, 0)
    random_numbers = np.array([randomness.key(0, p.id) for p in prompts], np.int64)
    games = task.play(player, prompts, random_numbers, opponent)
    own, first = [int(g.mask.sum()) for g in games], [int(g.mask.argmax()) for g in games]
    return mean_length([len(g.token_ids) for g in games], own, first)


def mean_length(lengths: Sequence[int], own: Sequence[float], prompts: Sequence[int]) -> Length:
    """The mean over episodes: all their tokens, the policy's own, and those of their prompts."""
    n = np.array(lengths, np.float64)
    return Length(float(n.mean()), float(np.mean(own)), float((n * (n + 1) / 2).mean()), float(np.mean(prompts)))


