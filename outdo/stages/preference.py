"""preference: learn from answers that were preferred to others, or called good or bad: DPO, IPO, SimPO, ORPO, KTO.

The answers stand in rows of data, or a judge compares `pairs` of the model's own samples before the first step. Nothing is
sampled while it learns; for that take kind = "rl" with algorithm "dpo" (online).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from outdo.errors import check
from outdo.plugins import Plugin
from outdo.recipe import Recipe
from outdo.stages.base import DataChecks, Given, Stage
from outdo.stages.common.data import check_answers
from outdo.stages.common.pairs import OwnPair, PairConfig, check_source, pairs_of, steps_of
from outdo.tasks.base import Task
from outdo.types import Sample, Usage

if TYPE_CHECKING:
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop
    from outdo.text.render import Rendered, Renderer
    from outdo.text.rows import Row


class Preference(Stage):
    """Preference optimisation on rows of data, or on pairs of the model's own samples."""

    class Config(PairConfig):
        """Options of a stage with kind = "preference"."""

        usual_lr: ClassVar[tuple[float, float] | None] = (5e-6, 5e-5)

        kind: Literal["preference"] = "preference"
        algorithm: Plugin = Plugin(name="dpo")

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """There are pairs, and the algorithm learns from preferences."""
        from outdo.algorithms.base import make_algorithm  # seconds of imports

        check_source(name, self.config, recipe, task)
        algorithm = make_algorithm(self.algorithm())
        check(algorithm.paired or algorithm.labelled, f"stage.{name}.algorithm = {algorithm.name!r} does not learn from "
              "preferences; there is dpo, ipo, simpo, orpo (pairs) and kto (single answers)")

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """The first rows must render to pairs, or to labelled answers."""
        from outdo.algorithms.base import make_algorithm  # seconds of imports
        from outdo.text.render import renderer

        if self.config.pairs is not None:
            return steps_of(self.config, data.flops)
        render, labelled = renderer(self.config, data.tokenizer, data.context), make_algorithm(self.algorithm()).labelled
        return check_answers(self.config, data, render.context, lambda row, place, i: _samples(render, row, place, i, labelled),
                             partial(_look, labelled))

    def estimate(self, estimates: Estimates) -> StepCost:
        """Training on both answers of a row, and a forward pass of the reference where there is one."""
        return estimates.preferences(self.config)

    def run(self, loop: Loop) -> None:
        """Rows -> pairs -> the reference's log-probs -> an optimiser step, until the budget is spent."""
        from outdo.text.render import renderer  # seconds of imports

        passes = pairs_of(loop)
        render = renderer(self.config, loop.run.tokenizer, loop.model.config.max_position_embeddings)
        labelled = loop.algorithm.labelled
        shown = [_samples(render, row, f"{passes.source}, row {i}", i, labelled) for i, row in passes.measured.items()]
        loop.heldout_rows = [replace(s, pair=None) for some in shown for s in some if s.advantages.max() > 0]
        loop.measure_rows = partial(_told_apart, loop, [s for some in shown if len(some) == 2 for s in some])
        for step in loop.steps():
            loop.refresh_reference(step)
            made = [_samples(render, row, f"{passes.source}, row {i}", n, labelled)
                    for n, (i, row) in enumerate(passes.batch(step))]
            samples, usage = _referred(loop, [s for pair in made for s in pair])
            usage += Usage(episodes=len(made)) + passes.paid(step)
            if samples and labelled:
                usage += _set_zero(loop, samples)
            metrics, spent = loop.train(samples) if samples else ({}, Usage())
            loop.book(usage + spent, {**metrics, "episodes": float(sum(bool(m) for m in made)),
                                      "dropped": float(sum(not m for m in made))})


def _samples(render: Renderer, row: Row, place: str, number: int, labelled: bool) -> list[Sample]:
    """A row's chosen and rejected answer, or its one answer; empty where one does not fit into the context."""
    from outdo.text.pairs import answers, render_pair  # seconds of imports

    if isinstance(row, OwnPair):
        return row.samples(labelled, number)
    if not labelled:
        return _whole(render_pair(render, row, place), [1.0, -1.0], number)
    made = answers(render, row, place)
    return _whole(made, [1.0, -1.0] if len(made) == 2 else [1.0 if row["label"] else -1.0], None)


def _look(labelled: bool, row: Row, place: str) -> None:
    """Raise UserError for a row that has no two answers, nor a labelled one where the algorithm learns from these."""
    from outdo.text.pairs import sides  # seconds of imports
    from outdo.text.shapes import Shape, shape_of

    if not labelled or shape_of(row, place) is not Shape.UNPAIRED_PREFERENCE:
        sides(row, place)


def _whole(rendered: Sequence[Rendered], signs: Sequence[float], pair: int | None) -> list[Sample]:
    """Samples of renderings that are whole: an answer that was cut is not the one that was preferred."""
    if any(r.cut_tokens or not r.trained_tokens for r in rendered):
        return []
    plain = [r.sample() for r in rendered]
    return [replace(s, advantages=s.advantages * np.float32(sign), pair=pair) for s, sign in zip(plain, signs, strict=True)]


def _referred(loop: Loop, samples: list[Sample]) -> tuple[list[Sample], Usage]:
    """The samples with the reference's log-probs, where the algorithm needs them."""
    if loop.reference is None or not samples:
        return samples, Usage()
    found, usage = loop.reference.logprobs([(s.token_ids, s.mask) for s in samples], 1.0)
    return [replace(s, ref_logprobs=x) for s, x in zip(samples, found, strict=True)], usage


def _told_apart(loop: Loop, samples: list[Sample]) -> tuple[dict[str, Any] | None, Usage]:
    """The share of held-out pairs in which the policy has moved towards the chosen answer.

    Of an algorithm without a reference: in which it finds that answer likelier, per token.
    """
    from outdo.evaluation.stats import wilson  # seconds of imports
    from outdo.stages.common.reference import whole

    if not samples:
        return None, Usage()
    rows = [(s.token_ids, s.mask) for s in samples]
    own, usage = whole(loop.model, loop.run.dtype, rows, loop.config.optimizer.micro_tokens)
    if loop.reference is not None:
        theirs, cost = loop.reference.logprobs(rows, 1.0)
        moved, usage = [float((a - b).sum()) for a, b in zip(own, theirs, strict=True)], usage + cost
    else:
        moved = [float(a.sum()) / int(s.mask.sum()) for a, s in zip(own, samples, strict=True)]
    right, n = sum((a > b) + 0.5 * (a == b) for a, b in zip(moved[::2], moved[1::2], strict=True)), len(samples) // 2
    return {"metric": "pair_accuracy", "value": right / n, "ci95": wilson(right, n), "n": n}, usage


def _set_zero(loop: Loop, samples: Sequence[Sample]) -> Usage:
    """KTO's z: how far the policy is from the reference on answers put behind the next row's prompt."""
    from outdo.stages.common.reference import whole  # seconds of imports

    rows = []
    for s, other in zip(samples, [*samples[1:], samples[0]], strict=True):
        begin = int(other.mask.argmax())
        prompt, answer = other.token_ids[:begin], s.token_ids[int(s.mask.argmax()) :]
        mask = np.concatenate([np.zeros(len(prompt), bool), s.mask[int(s.mask.argmax()) :]])
        if len(mask) <= loop.model.config.max_position_embeddings:
            rows.append((np.concatenate([prompt, answer]), mask))
    if not rows:
        return Usage()
    assert loop.reference is not None
    own, cost = whole(loop.model, loop.run.dtype, rows, loop.config.optimizer.micro_tokens)
    reference, theirs = loop.reference.logprobs(rows, 1.0)
    ratios = [float(a.sum() - b.sum()) for a, b in zip(own, reference, strict=True)]
    loop.algorithm.zero = max(0.0, float(np.mean(ratios)))  # type: ignore[attr-defined]
    return cost + theirs
