"""What pretrain and sft share: options and checks, and two loops: imitate a player's episodes, or rows of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from outdo.errors import check
from outdo.recipe import Recipe
from outdo.stages.base import DataChecks, Given, Stage, check_known
from outdo.stages.common.data import DataConfig, Passes, check_rows, length, load_rows, note_form
from outdo.system import randomness
from outdo.text import heldout
from outdo.text.rows import Row, Rows, Stream
from outdo.text.shapes import Shape, shape_of
from outdo.types import Finish, Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.tasks.base import Task

_TOGETHER = 384  # episodes that a player plays side by side


class ImitationConfig(DataConfig):
    """Whose episodes, or which rows of data, are imitated."""

    player: str = "teacher"  # imitated where there is no data; `episodes` of its episodes are a step
    random_moves: float = Field(default=0.0, ge=0, lt=1)  # share of its moves that are any allowed one, imitated like the rest
    split: str = "train"
    opponents: tuple[str, ...] = ()  # played in turns; empty: the task's first


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
        check_rows(config, loaded, partial(_look, config))
        _note_answers(loaded, data)
        rendered = render.preview(config, data.tokenizer, data.context, given=loaded)
        note_form(config, next(iter(loaded)), data)
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
        return length(config, loaded, data)

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


def _look(config: ImitationConfig, row: Row, place: str) -> None:
    """Raise UserError for a row in no known shape, or without a weight where the stage reads one."""
    shape_of(row, place)
    _weight(config, row, place)


def _note_answers(loaded: Rows, data: DataChecks) -> None:
    """Rows without a column for the answer, among others that have one, are left out; the plan says so."""
    if isinstance(loaded, Stream):
        return
    bare = [i for i, row in enumerate(loaded) if shape_of(row) is Shape.PROMPT_ONLY]
    if bare and len(bare) < len(loaded):
        data.note(f"{len(bare):,} of {len(loaded):,} rows have a prompt and no answer and are left out; the first "
                  f"is row {bare[0]}")


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
    passes = Passes(loop)
    renderer = render.renderer(config, loop.run.tokenizer, loop.model.config.max_position_embeddings)
    loop.heldout_rows = passes.shown(renderer)
    for step in loop.steps():
        numbered, judging = passes.batch(step), Usage()
        if getattr(config, "judge", None) is not None:
            numbered, judging = _approved(loop, numbered)
        placed = [(row, f"{config.data}, row {i}") for i, row in numbered]
        weighed = [(r, _weight(config, row, place)) for row, place in placed for r in renderer(row, place)]
        rendered = [r for r, _ in weighed]
        kept = [(r, w) for r, w in weighed if r.trained_tokens and w and not (r.cut_tokens and config.truncate == "drop")]
        wasted = sum(len(r.token_ids) for r in rendered) - sum(len(r.token_ids) for r, _ in kept)
        usage = Usage(discarded_tokens=wasted + sum(r.cut_tokens for r in rendered), episodes=len(rendered))
        counts = {"episodes": float(len(kept)), "dropped": float(len(rendered) - len(kept)),
                  "truncated": float(sum(r.cut_tokens > 0 for r in rendered))}
        metrics, spent = loop.train([r.sample(w) for r, w in kept]) if kept else ({}, Usage())
        loop.book(usage + judging + spent, {**metrics, **counts})


def _weight(config: Any, row: Row, place: str) -> float:
    """How much a row counts, by the column that the stage names. Raises UserError."""
    column = getattr(config, "weights", None)
    if column is None:
        return 1.0
    value = row.get(column)
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    check(right, f"{place}: column {column} holds {value!r}; weights are numbers of at least 0")
    return float(value)  # type: ignore[arg-type]


def _approved(loop: Loop, numbered: Sequence[tuple[int, Row]]) -> tuple[list[tuple[int, Row]], Usage]:
    """The rows whose answers the stage's judge scores at least `threshold`, and what asking it cost."""
    from outdo.text.render import imitated  # seconds of imports

    none = np.zeros(0, np.int64)
    asked = []
    for i, row in numbered:
        prompt, answer = imitated(row, shape_of(row, f"{loop.config.data}, row {i}"))
        if not isinstance(prompt, str) and not prompt:  # a conversation: what came before its last message
            prompt, answer = answer[:-1], answer[-1:]
        asked.append(Trajectory(f"row/{i}", 0, none, none.astype(bool), none.astype(np.float32), -1, Finish.STOP,
                                {**row, "prompt": prompt, "completion": answer}))
    scores = loop.judge.score(asked)
    good = [pair for pair, s in zip(numbered, scores, strict=True) if s.value is not None and s.value >= loop.config.threshold]
    return good, loop.judge_cost(len(asked))


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
