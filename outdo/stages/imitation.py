"""pretrain and sft: imitate a player's episodes or rows of data. Dense signal: every token to write is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outdo.recipe import Pretrain, Sft
from outdo.stages.loop import Loop
from outdo.system import randomness
from outdo.text import render, rows, unseen
from outdo.types import Sample, Trajectory, Usage

_TOGETHER = 384  # episodes that a player plays side by side


def imitate(loop: Loop) -> None:
    """Let the player play, imitate what it did, repeat until the budget is spent."""
    config = loop.config
    assert isinstance(config, Pretrain | Sft)
    if config.data is not None:
        return imitate_rows(loop)
    ahead: dict[int, list[Trajectory]] = {}
    for step in loop.steps():
        if step not in ahead:
            ahead.update(play(loop, step))
        episodes = ahead.pop(step)
        kept = [t for t in episodes if not (isinstance(config, Sft) and config.keep == "won") or _won(loop, t)]
        usage = _cost_of_playing(loop, config.player, episodes, kept)
        if not kept:
            loop.book(usage, {"episodes": 0.0})
            continue
        metrics, spent = loop.train([demonstration(t, config.train_on) for t in kept])
        loop.book(usage + spent, {**metrics, "episodes": float(len(kept))})


def play(loop: Loop, step: int) -> dict[int, list[Trajectory]]:
    """The player's episodes of this step and of some later ones against the same opponent, by step.

    Players that compute in arrays take hardly longer for hundreds of episodes than for one. Every episode has prompt and luck of
    its own, so it goes as it would have gone alone.
    """
    config = loop.config
    assert isinstance(config, Pretrain | Sft)
    n, apart = config.episodes, len(config.opponents) or 1  # opponents take turns
    end = step + apart * max(1, _TOGETHER // n)
    steps = range(step, end if config.steps is None else min(end, config.steps), apart)
    prompts = [p for s in steps for p in loop.prompts(s, n, config.split)]
    luck = np.concatenate([_luck(loop.seed, s, n) for s in steps])
    episodes = loop.task.play(config.player, prompts, luck, loop.opponent(step), config.random_moves)
    return {s: episodes[i * n : (i + 1) * n] for i, s in enumerate(steps)}


def imitate_rows(loop: Loop) -> None:
    """Take the next rows, imitate the answers in them, repeat until the budget is spent."""
    config = loop.config
    assert isinstance(config, Pretrain | Sft)
    given = loop.run.rows
    data = rows.load(config.data, config.data_split, config.stream) if given is None else given
    renderer = render.renderer(config, loop.run.tokenizer, loop.model.config.max_position_embeddings)
    measured, theirs = unseen.choose(config, data, loop.run.unseen)
    shown = [renderer(row, f"{config.data if theirs else config.heldout_data}, row {i}") for i, row in measured.items()]
    loop.unseen = [r.sample() for r in shown if r.trained_tokens]
    feed = rows.Feed(data, loop.seed, skip=measured if theirs else ())
    for step in loop.steps():
        numbered = feed.take(step * config.episodes, config.episodes)
        rendered = [renderer(row, f"{config.data}, row {i}") for i, row in numbered]
        kept = [r for r in rendered if r.trained_tokens]
        wasted = sum(len(r.token_ids) for r in rendered) - sum(len(r.token_ids) for r in kept)
        usage = Usage(discarded_tokens=wasted + sum(r.cut_tokens for r in rendered), episodes=len(rendered))
        counts = {"episodes": float(len(kept)), "dropped": float(len(rendered) - len(kept)),
                  "truncated": float(sum(r.cut_tokens > 0 for r in rendered))}
        metrics, spent = loop.train([r.sample() for r in kept]) if kept else ({}, Usage())
        loop.book(usage + spent, {**metrics, **counts})


def demonstration(t: Trajectory, train_on: str) -> Sample:
    """A trajectory as something to imitate: weight 1 on every token that trains."""
    mask = t.mask.copy()
    if train_on == "everything":
        mask[:] = True
    if train_on == "moves+result":
        mask[-1] = True
    mask[0] = False
    ones = mask.astype(np.float32)
    return Sample(t.token_ids, mask, ones, np.where(mask, t.logprobs, 0.0).astype(np.float32))


def _luck(seed: int, step: int, n: int) -> np.ndarray:
    counters = step * n + np.arange(n)
    return (randomness.keys(randomness.key(seed, "episodes"), counters) >> np.uint64(1)).astype(np.int64)


def _won(loop: Loop, t: Trajectory) -> bool:
    return loop.run.gold.score([t])[0].value == 1.0


def _cost_of_playing(loop: Loop, player: str, episodes: Sequence[Trajectory], kept: Sequence[Trajectory]) -> Usage:
    """The player's own work, also on episodes that are then thrown away."""
    moves = sum(int(t.mask.sum()) for t in episodes) / loop.task.turn_tokens
    dropped = sum(len(t.token_ids) for t in episodes) - sum(len(t.token_ids) for t in kept)
    return Usage(judge_flops=moves * loop.task.player_flops(player), discarded_tokens=dropped, episodes=len(episodes))
