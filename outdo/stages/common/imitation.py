"""What pretrain and sft share: options and checks, and two loops: imitate a player's episodes, or rows of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from outdo.errors import check
from outdo.recipe import Recipe, StageConfig
from outdo.stages.base import DataChecks, Given, Stage, check_known
from outdo.system import randomness
from outdo.text import heldout, rows
from outdo.text.shapes import shape_of
from outdo.types import Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.tasks.base import Task

_TOGETHER = 384  # episodes that a player plays side by side


class ImitationConfig(StageConfig):
    """Whose episodes, or which rows of data, are imitated."""

    player: str = "teacher"
    random_moves: float = Field(default=0.0, ge=0, lt=1)  # share of its moves that are any allowed one, imitated like the rest
    split: str = "train"
    opponents: tuple[str, ...] = ()  # played in turns; empty: the task's first
    episodes: int = Field(default=64, ge=1)  # or rows, per optimiser step
    train_on: Literal["moves", "moves+result", "everything"] = "moves"  # which tokens train; of rows: answers or everything
    data: str | None = None  # rows instead of a player: a file, a folder or a hub id (org/name, org/name:config)
    data_split: str = "train"  # of data that has several
    columns: dict[str, str] = Field(default_factory=dict)  # our column = the data's: { prompt = "text", completion = "class" }
    documents: Literal["paragraphs", "file"] = "paragraphs"  # what a row is in a .txt file: between empty lines, or all of it
    epochs: int = Field(default=1, ge=1)  # passes over the rows, where neither steps nor flops end the stage
    truncate: Literal["cut", "drop", "error"] = "cut"  # rows that are longer than max_tokens
    stream: bool = False  # read data as it comes, shuffled in windows of 10,000 rows: for what does not fit into memory
    # Rows with several answers: one text each ("together"), one for each answer, rendered as at inference ("apart"), or "apart"
    # only where the chat template drops earlier thoughts ("auto").
    turns: Literal["auto", "together", "apart"] = "auto"
    max_tokens: int | None = Field(default=None, ge=2)  # rows are cut there; None: at the model's context
    heldout: float = Field(default=0.05, ge=0, lt=1)  # share of the rows, by hash, that never train: the loss is measured on them
    heldout_data: str | None = None  # rows for that instead: the name of a split of data, or a file, a folder, a hub id

    @property
    def tries_task(self) -> bool:
        """Rows of data leave the task alone."""
        return self.data is None

    @property
    def ends_by_itself(self) -> bool:
        """Rows of data are passed over `epochs` times."""
        return self.data is not None and not self.stream


class Imitation(Stage):
    """Base of the kinds that learn from demonstrations."""

    Config: ClassVar[type[ImitationConfig]]

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """Player and opponents must exist, and the options must go with the player, or with the data."""
        config: ImitationConfig = self.config
        check_known(f"stage.{name}.opponents", config.opponents, task.opponents, task)
        if config.data is not None:
            check(config.random_moves == 0.0, f"stage.{name}.random_moves = {config.random_moves} goes with a player; rows of "
                  "data are imitated as they are: leave out random_moves, or data")
            return
        check(config.heldout_data is None, f"stage.{name}.heldout_data goes with data; a player has episodes enough")
        check_known(f"stage.{name}.player", [config.player], task.players, task)
        if config.random_moves > 0.0:
            task.play(config.player, [], np.zeros(0, np.int64), None, config.random_moves)  # it says that it cannot

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """The first rows of the data, and of the held-out data, must render to something that trains."""
        from outdo.text import chat, render  # seconds of imports

        config: ImitationConfig = self.config
        if config.data is None:
            return {}
        loaded = load_rows(config, data.given)
        rendered = render.preview(config, data.tokenizer, data.context, given=loaded)
        if config.heldout_data is not None:
            render.preview(heldout.source(config), data.tokenizer, data.context, given=data.given.heldout_rows)
        cut = sum(r.cut_tokens > 0 for r in rendered) / len(rendered)
        check(config.truncate != "error" or not cut, f"{config.data}: {cut:.0%} of the first {len(rendered)} rows have more than "
              f"{data.context} tokens and truncate = 'error'; raise max_tokens, or choose truncate = 'cut' or 'drop'")
        if cut:
            verb = "are cut" if config.truncate == "cut" else "are left out"
            idle = sum(not r.trained_tokens for r in rendered) / len(rendered)
            more = f"; {idle:.0%} have no token left to train on and are left out" if idle else ""
            data.note(f"{cut:.0%} of the first {len(rendered)} rows are longer than the model reads and {verb}{more}")
        if chat.never_ends(data.tokenizer) and "messages" in shape_of(next(iter(loaded))).value:
            data.note(chat.NEVER_ENDS)
        return self._length(data, loaded)

    def _length(self, data: DataChecks, loaded: rows.Rows) -> dict[str, Any]:
        """How many steps the passes over the rows take; rows that the task measures on are found and told."""
        config: ImitationConfig = self.config
        if config.stream:
            return {}
        measured, theirs = heldout.choose(config, loaded, data.given.heldout_rows)
        left = [row for i, row in enumerate(loaded) if not (theirs and i in measured)]
        withheld = sum(data.withheld.holds(row) for row in left) if data.withheld else 0
        if withheld:
            data.note(f"{withheld:,} of {len(left):,} rows are left out: their prompts are measured on (held out by the task)")
        check(withheld < len(left), f"{config.data}: the task measures on the prompts of all {len(left)} rows, so none "
              "may train; give other rows, or hold out fewer (task.heldout)")
        if config.steps is not None or data.flops is not None:
            return {}
        return {"steps": -(-(len(left) - withheld) * config.epochs // config.episodes)}

    def kept(self, loop: Loop, episodes: list[Trajectory]) -> list[Trajectory]:
        """The episodes that are imitated: all of them."""
        del loop
        return episodes

    def estimate(self, estimates: Estimates) -> StepCost:
        """Training on the rows or episodes; what players compute is not the model's."""
        return estimates.imitation(self.config)

    def run(self, loop: Loop) -> None:
        """Rows of data, or a player's episodes."""
        if self.config.data is not None:
            imitate_rows(loop)
        else:
            imitate_player(loop, self.kept)


def imitate_player(loop: Loop, keep: Callable[[Loop, list[Trajectory]], list[Trajectory]]) -> None:
    """Let the player play, imitate what it did, repeat until the budget is spent."""
    config: ImitationConfig = loop.config
    ahead: dict[int, list[Trajectory]] = {}
    for step in loop.steps():
        if step not in ahead:
            ahead.update(play(loop, step))
        episodes = ahead.pop(step)
        kept = keep(loop, episodes)
        usage = _cost_of_playing(loop, config.player, episodes, kept)
        if not kept:
            loop.book(usage, {"episodes": 0.0})
            continue
        metrics, spent = loop.train([demonstration(t, config.train_on) for t in kept])
        loop.book(usage + spent, {**metrics, "episodes": float(len(kept))})


def play(loop: Loop, step: int) -> dict[int, list[Trajectory]]:
    """The player's episodes of this step and of some later ones against the same opponent, by step.

    Players that compute in arrays take hardly longer for hundreds of episodes than for one. Every episode has its own
    prompt and random numbers, so it goes as it would have gone alone.
    """
    config: ImitationConfig = loop.config
    n, apart = config.episodes, len(config.opponents) or 1  # opponents take turns
    end = step + apart * max(1, _TOGETHER // n)
    steps = range(step, end if config.steps is None else min(end, config.steps), apart)
    prompts = [p for s in steps for p in loop.prompts(s, n, config.split)]
    random_numbers = np.concatenate([_random_numbers(loop.seed, s, n) for s in steps])
    episodes = loop.task.play(config.player, prompts, random_numbers, loop.opponent(step), config.random_moves)
    return {s: episodes[i * n : (i + 1) * n] for i, s in enumerate(steps)}


def imitate_rows(loop: Loop) -> None:
    """Take the next rows, imitate the answers in them, repeat until the budget is spent."""
    from outdo.text import render  # seconds of imports

    config: ImitationConfig = loop.config
    data = load_rows(config, loop.run.given)
    renderer = render.renderer(config, loop.run.tokenizer, loop.model.config.max_position_embeddings)
    measured, theirs = heldout.choose(config, data, loop.run.given.heldout_rows)
    source = config.data if theirs else config.heldout_data
    shown = [r for i, row in measured.items() for r in renderer(row, f"{source}, row {i}")]
    loop.heldout_rows = [r.sample() for r in shown if r.trained_tokens]
    withheld = loop.run.withheld
    feed = rows.Feed(data, loop.seed, skip=measured if theirs else (), leave_out=withheld.holds if withheld else None)
    # Whole passes end with a smaller batch; any other number of steps goes round and round.
    whole = 0 if config.stream else len(feed) * config.epochs
    last = whole if config.steps == -(-whole // config.episodes) else None
    for step in loop.steps():
        start = step * config.episodes
        numbered = feed.take(start, config.episodes if last is None else min(config.episodes, last - start))
        rendered = [r for i, row in numbered for r in renderer(row, f"{config.data}, row {i}")]
        kept = [r for r in rendered if r.trained_tokens and not (r.cut_tokens and config.truncate == "drop")]
        wasted = sum(len(r.token_ids) for r in rendered) - sum(len(r.token_ids) for r in kept)
        usage = Usage(discarded_tokens=wasted + sum(r.cut_tokens for r in rendered), episodes=len(rendered))
        counts = {"episodes": float(len(kept)), "dropped": float(len(rendered) - len(kept)),
                  "truncated": float(sum(r.cut_tokens > 0 for r in rendered))}
        metrics, spent = loop.train([r.sample() for r in kept]) if kept else ({}, Usage())
        loop.book(usage + spent, {**metrics, **counts})


def load_rows(config: ImitationConfig, given: Given) -> rows.Rows:
    """The rows that a stage imitates: those from Python, or its data."""
    if given.rows is not None:
        return given.rows
    return rows.load(config.data, config.data_split, config.stream, config.columns, config.documents)


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


def _random_numbers(seed: int, step: int, n: int) -> np.ndarray:
    counters = step * n + np.arange(n)
    return (randomness.keys(randomness.key(seed, "episodes"), counters) >> np.uint64(1)).astype(np.int64)


def _cost_of_playing(loop: Loop, player: str, episodes: Sequence[Trajectory], kept: Sequence[Trajectory]) -> Usage:
    """The player's own work, also on episodes that are then thrown away."""
    moves = sum(int(t.mask.sum()) for t in episodes) / loop.task.turn_tokens
    dropped = sum(len(t.token_ids) for t in episodes) - sum(len(t.token_ids) for t in kept)
    return Usage(judge_flops=moves * loop.task.player_flops(player), discarded_tokens=dropped, episodes=len(episodes))
