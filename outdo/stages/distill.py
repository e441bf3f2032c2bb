"""distill: come close to a stronger model's distribution, on the policy's own samples, on the teacher's, or on rows of data.

The signal is dense (a whole distribution at every token), and the ceiling is the teacher. On own samples the policy is corrected
where it goes wrong, not where the teacher would have gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from outdo.errors import check
from outdo.models import fetch
from outdo.plugins import Plugin
from outdo.recipe import STAGE, Recipe
from outdo.stages.base import DataChecks, Given, Stage
from outdo.stages.common.data import DataConfig, Passes, length, load_rows
from outdo.stages.common.teacher import ServedTeacher, TeacherServer
from outdo.system.progress import say
from outdo.tasks.base import Task
from outdo.types import Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.estimates import Estimates, StepCost
    from outdo.stages.common.loop import Loop


class Distill(Stage):
    """Minimise a divergence from a teacher with the same tokenizer."""

    class Config(DataConfig):
        """Options of a stage with kind = "distill": it learns on rows of `data`, or without on samples on the task's prompts."""

        usual_lr: ClassVar[tuple[float, float] | None] = (2e-5, 1e-4)

        kind: Literal["distill"] = "distill"
        algorithm: Plugin = Plugin(name="distillation")
        teacher: str = ""  # a folder, a .gguf file, a hub id, RUN:stage, or "stage:<name>"
        teacher_server: TeacherServer | None = None  # in place of teacher: a vLLM server that gives its log-probabilities
        samples_of: Literal["policy", "teacher"] = "policy"
        prompts: int = Field(default=32, ge=1)  # per step, of the task
        group_size: int = Field(default=1, ge=1)  # samples per prompt
        split: str = "train"
        temperature: float = Field(default=1.0, gt=0)

        @property
        def ends_by_itself(self) -> bool:
            """After passes over the rows, or one over the prompts."""
            return not self.stream

    def check(self, name: str, recipe: Recipe, task: Task, given: Given) -> None:
        """The teacher exists, and reads the tokens of the policy."""
        from outdo.models import hf  # seconds of imports

        teacher, server = self.config.teacher, self.config.teacher_server
        check(bool(teacher) or server is not None, f"stage.{name} has no teacher; set teacher = a folder, a hub id, RUN:stage or "
              "'stage:<name>', or teacher_server = { base_url = ..., model = ... }")
        check(not (teacher and server), f"stage.{name} has teacher = {teacher!r} and a teacher_server; leave out one")
        check(self.config.algorithm.name == "distillation" or ":" in self.config.algorithm.name, f"stage.{name}.algorithm = "
              f"{self.config.algorithm.name!r} does not learn from a teacher; leave it out")
        if teacher.startswith(STAGE):
            return
        source = recipe.checkpoint(name) or recipe.model.tokenizer or ""
        if server is not None:
            self._check_served(name)
            tokenizer = hf.load_tokenizer(fetch.resolve(source, say)) if source else task.tokenizer()
            self._served(name, len(tokenizer)).look(tokenizer)
            return
        check(bool(source), f"stage.{name}.teacher = {teacher!r} has a tokenizer of its own, and the model has the task's; "
              "give model.tokenizer = the teacher, or start from a checkpoint with its tokenizer")
        own, theirs = (hf.load_tokenizer(fetch.resolve(s, say)).get_vocab() for s in (source, teacher))
        check(own == theirs, f"stage.{name}.teacher = {teacher!r} has another tokenizer than {source!r}, so their distributions "
              "cannot be compared; take a teacher of the same family, or imitate its answers (kind = 'sft')")

    def _check_served(self, name: str) -> None:
        """What a server cannot do: sample for the stage, other temperatures, whole distributions. Raises UserError."""
        c = self.config
        check(c.data is not None or c.samples_of == "policy", f"stage.{name}.samples_of = 'teacher': a server's samples are not "
              "trained on here; imitate its answers (kind = 'sft'), or give a local teacher")
        check(c.temperature == 1.0, f"stage.{name}.temperature = {c.temperature:g}: a server's "
              "log-probabilities are those of temperature 1; leave temperature out, or give a local teacher")
        check(self._top_k() is not None, f"stage.{name}.algorithm has no top_k, and a server gives the likeliest tokens only; "
              "set algorithm.top_k = 20, or what the server's --max-logprobs allows")

    def _top_k(self) -> int | None:
        from outdo.algorithms.base import make_algorithm  # seconds of imports

        return getattr(make_algorithm(self.config.algorithm).config, "top_k", None)

    def _served(self, name: str, vocabulary: int) -> ServedTeacher:
        settings, k = self.config.teacher_server, self._top_k()
        assert settings is not None and k is not None
        return ServedTeacher(settings, f"stage.{name}.teacher_server", min(k, vocabulary), vocabulary)

    def check_data(self, data: DataChecks) -> dict[str, Any]:
        """The first rows must render, or the task must have prompts."""
        from outdo.text import render  # seconds of imports

        config: Distill.Config = self.config
        if config.data is not None:
            loaded = load_rows(config, data.given)
            render.preview(config, data.tokenizer, data.context, given=loaded)
            return length(config, loaded, data)
        if config.steps is not None or data.flops is not None:
            return {}
        size = data.task.size(config.split) or 200 * config.prompts
        return {"steps": max(1, -(-size * config.epochs // config.prompts))}

    def estimate(self, estimates: Estimates) -> StepCost:
        """Sampling, where there is no data; training, and a forward pass of a teacher taken to be as large."""
        return estimates.distillation(self.config)

    def run(self, loop: Loop) -> None:
        """Samples or rows -> both models' distributions at every token that trains -> an optimiser step."""
        batches = _rows(loop) if self.config.data is not None else _sampled
        served = self._served(loop.name, loop.model.config.vocab_size) if self.config.teacher_server else None
        for step in loop.steps():
            samples, usage, more = batches(loop, step)
            if served is not None:
                samples, cost = served.taught(samples)
                usage += cost
            metrics, spent = loop.train(samples) if samples else ({}, Usage())
            loop.book(usage + spent, {**metrics, **more})


def _sampled(loop: Loop, step: int) -> tuple[list[Sample], Usage, dict[str, float]]:
    """What the policy, or the teacher, writes on the step's prompts."""
    c = loop.config
    engine = loop.engine if c.samples_of == "policy" else loop.frozen_engine
    assert engine is not None
    if engine is loop.engine:
        engine.load(loop.trainer.steps)
    trajectories, usage = loop.rollout(loop.prompts(step, c.prompts, c.split), c.group_size, c.temperature,
                                       loop.task.opponents[0], loop.seed, engine)
    samples = [_imitated(p) for t in trajectories for p in t.pieces if p.mask.any()]
    return samples, usage, {"tokens_per_episode": sum(t.sampled_tokens for t in trajectories) / len(trajectories)}


def _imitated(t: Trajectory) -> Sample:
    return Sample(t.token_ids, t.mask, t.mask.astype(np.float32), t.logprobs)


def _rows(loop: Loop) -> Any:
    """A function like `_sampled`, of rows of data."""
    from outdo.text import render  # seconds of imports

    passes, c = Passes(loop), loop.config
    renderer = render.renderer(c, loop.run.tokenizer, loop.model.config.max_position_embeddings)
    loop.heldout_rows = passes.shown(renderer)

    def batch(loop: Loop, step: int) -> tuple[Sequence[Sample], Usage, dict[str, float]]:
        rendered = [r for i, row in passes.batch(step) for r in renderer(row, f"{c.data}, row {i}")]
        kept = [r.sample() for r in rendered if r.trained_tokens]
        return kept, Usage(episodes=len(rendered)), {"episodes": float(len(kept))}

    return batch
