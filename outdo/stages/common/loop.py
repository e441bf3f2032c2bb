"""What a stage's loop stands on: `for step in loop.steps():` around a few verbs. A new kind of stage needs only this file.

    train(samples)        one optimiser step
    rollout(prompts, …)   sample from the model
    book(usage, metrics)  write down what the step cost and measured; every step calls it once

Between two steps the loop evaluates (`evaluations.py`), saves (`saving.py`), shows progress and answers Ctrl-C.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from outdo import plugins
from outdo.algorithms.base import make_algorithm
from outdo.errors import UserError, check
from outdo.judges.base import Judge, make_judge
from outdo.ledger.ledger import Clock, Ledger
from outdo.models import fetch, hf
from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.plugins import Plugin
from outdo.recipe import STAGE
from outdo.rollout import custom
from outdo.rollout.engine import Engine
from outdo.rollout.episodes import rollout
from outdo.stages.base import Stage
from outdo.stages.common import saving
from outdo.stages.common.context import Run
from outdo.stages.common.evaluations import Evaluations
from outdo.stages.common.reference import Reference
from outdo.system import files, progress, randomness
from outdo.system.trackers import Trackers
from outdo.training.optimizer import Optimizer, lr_scale
from outdo.training.step import NonFiniteError, Trainer
from outdo.types import Group, Prompt, Sample, Score, Trajectory, Usage


class Loop:
    """One stage at work."""

    def __init__(self, run: Run, name: str, model: LanguageModel, stage: Stage) -> None:
        self.run, self.name, self.model = run, name, model
        self.config: Any = stage.config
        self.task, self.seed = run.task, randomness.key(run.recipe.seed, name)
        self.folder = run.folder / "stages" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self.algorithm = make_algorithm(stage.algorithm())
        self._build(model)
        own = getattr(self.config, "judge", None)
        self.judge: Judge = make_judge(in_run(own, run.folder)) if own else run.judge
        self.ended = ""  # why the stage ends before its budget; empty: it does not
        self._status = ""  # of the last step, for the progress display
        self.heldout_rows: Sequence[Sample] = ()  # of rows of data: what the loss is measured on
        # What the stage measures on rows that never train: a record for heldout.jsonl (None: nothing to say), and its cost.
        self.measure_rows: Callable[[], tuple[dict[str, Any] | None, Usage]] | None = None
        self.save_more: Callable[[Path], None] | None = None  # writes further files into the stage's last checkpoint
        self._rollout_func = self._chosen_rollout()
        self.clock = Clock.start()
        self._updating = {"wall_s": 0.0, "cpu_s": 0.0}  # since the last entry in the ledger
        self.checkpoints = saving.Checkpoints(self)
        before = saving.resume(self)
        self.step = before.step
        self.evaluations = Evaluations(self, before.evaluated)
        self.trackers = Trackers(run.recipe.trackers, run.recipe.model_dump(mode="json"), run.folder, name, self.step)

    def _build(self, model: LanguageModel) -> None:
        """The trainer and the engine, which share the model's weights."""
        optimizer, dtype, config = self.config.optimizer, self.run.dtype, self.config
        from_start = getattr(config, "sample_from", "policy") == "start"
        wanted = self.algorithm.reference or from_start
        self.reference = Reference(model, dtype, optimizer.micro_tokens) if wanted else None
        teacher = self._teacher()
        self.trainer = self._trainer(model, teacher)
        self.engine = Engine(model, dtype, self.run.recipe.slots)
        taught = getattr(config, "samples_of", "policy") == "teacher"
        frozen = self.reference.model if from_start and self.reference else teacher if taught else None
        self.frozen_engine: Engine | None = None  # samples from the weights that the stage starts from, or from the teacher
        if frozen is not None:
            self.frozen_engine = Engine(frozen, dtype, self.run.recipe.slots)
            self.frozen_engine.load(0)

    def _trainer(self, model: LanguageModel, teacher: LanguageModel | None) -> Trainer:
        """With the critic that the algorithm asks for."""
        settings, algorithm, critic, apart = self.config.optimizer, self.algorithm, None, None
        if algorithm.critic:
            critic = Critic(model.config.hidden_size, bias=not algorithm.paired).to(model.device)
        if algorithm.critic_model:
            apart = copy.deepcopy(model)
            faster = {key: algorithm.critic_lr_scale * getattr(settings, key) for key in ("lr", "muon_lr")}
            optimizer = Optimizer(model, settings)
            optimizer.add(Optimizer(apart, settings.model_copy(update=faster), critic))
        else:
            optimizer = Optimizer(model, settings, critic)
        return Trainer(model, optimizer, self.run.dtype, micro_tokens=settings.micro_tokens,
                       max_grad_norm=settings.max_grad_norm, temperature=getattr(self.config, "temperature", 1.0), critic=critic,
                       critic_model=apart, vocabulary=algorithm.vocabulary, teacher=teacher)

    def _teacher(self) -> LanguageModel | None:
        """The frozen model whose distributions the stage learns from, if it names one."""
        named = getattr(self.config, "teacher", None)
        if not named:
            return None
        teacher = hf.load(fetch.resolve(located(named, self.run.folder), lambda line: self.run.show(self.name, 0.0, line)))
        return teacher.to(self.model.device).requires_grad_(False)

    def _chosen_rollout(self) -> custom.RolloutFunc | None:
        """The user's function that generates in place of the engine, if the stage names one."""
        named = getattr(self.config, "rollout", None)
        if named is None:
            return None
        check(not self.algorithm.critic or self.algorithm.critic_model, f"stage.{self.name}.rollout: a critic that reads the "
              "policy's hidden states does not see what a function generates; set algorithm.critic = 'model', or choose another "
              "algorithm")
        self.run.show(self.name, 0.0, custom.NOTICE)
        chosen: custom.RolloutFunc = self.run.given.rollout or plugins.load(named)
        return chosen

    # --- budget -----------------------------------------------------------------------------------------------------

    @property
    def spent(self) -> float:
        """Share of the budget spent, in [0, 1] and beyond."""
        flops, steps = self.run.recipe.budget_flops(self.name), self.config.steps
        by_flops = self.ledger.train.flops / flops if flops else 0.0
        return max(by_flops, self.step / steps if steps else 0.0)

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is spent. Between two steps: evaluation, checkpoint, progress, Ctrl-C."""
        if self.run.interrupted:  # while the stage before was being measured
            raise KeyboardInterrupt
        if not self.begun:
            self.evaluations.evaluate(0)
        while self.spent < 1.0 and not self.ended:
            yield self.step
            self.step += 1
            self._between_steps()
        self._finish()

    @property
    def begun(self) -> bool:
        """Whether an earlier process came to this stage's first checkpoint."""
        return self.step > 0 or self.evaluations.done > 0

    def _between_steps(self) -> None:
        self.evaluations.when_due(self.spent)
        self.run.show(self.name, self.spent, self._status)
        interrupted = self.run.interrupted  # read once: whoever stops here has been saved
        if (self.checkpoints.due and self.spent < 1.0) or interrupted:
            self.checkpoints.write()
        if interrupted:
            raise KeyboardInterrupt

    def _finish(self) -> None:
        self.evaluations.finish()
        self.checkpoints.write(final=True)
        self.trackers.close()
        self.run.show(self.name, 1.0, "")

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, samples: Sequence[Sample]) -> tuple[dict[str, float], Usage]:
        """One optimiser step; a batch that gives a non-finite loss is kept for inspection and ends the run."""
        clock = Clock.start()
        self.engine.release()
        try:
            scale = lr_scale(self.config.optimizer, self.spent, self.trainer.steps)
            metrics, usage = self.trainer.step(samples, self.algorithm.loss, scale)
            self.algorithm.observe(metrics)
            return metrics, usage
        except NonFiniteError as e:
            kept = self.folder / f"nonfinite_step_{self.step}.jsonl"
            files.write_text(kept, "".join(_sample_line(s) for s in e.samples))
            raise UserError(f"stage {self.name}, step {self.step}: {e}; the weights are untouched and the batch is in "
                            f"{kept}; lower the learning rate or mend the data, then --resume {self.run.folder}") from None
        finally:
            self._updating = {k: seconds + self._updating[k] for k, seconds in clock.read().items()}

    def refresh_reference(self, step: int) -> None:
        """Make the reference the policy of now, every so many steps if the algorithm says so."""
        every = self.algorithm.reference_every
        if self.reference is not None and every is not None and step and step % every == 0:
            self.reference.refresh(self.model)

    def further(self) -> dict[str, Any]:
        """What a checkpoint holds beside the trainer's state."""
        return {"algorithm": self.algorithm.state(), "reference": self.reference.state() if self.reference else {}}

    def put_back(self, further: Mapping[str, Any]) -> None:
        """See `further`."""
        self.algorithm.load_state(further.get("algorithm", {}))
        if self.reference is not None:
            self.reference.load_state(further.get("reference", {}))

    def book(self, usage: Usage, metrics: dict[str, float]) -> None:
        """Write down what this step cost and measured. Every step calls it once."""
        wall, threads = self._updating["wall_s"], torch.get_num_threads()
        cores = self._updating["cpu_s"] if self.model.device.type == "cpu" else wall * threads
        measured = {**self.clock.read(), "update_s": wall, "update_core_s": cores, "threads": threads}
        self.ledger.book(self.step, "train", usage, measured)
        self._updating = dict.fromkeys(self._updating, 0.0)
        line = {"step": self.step, "flops": self.ledger.train.flops, **{k: float(v) for k, v in metrics.items()}}
        known = [f"{key} {line[key]:.3g}" for key in ("loss", "reward") if key in line]
        self._status = progress.STATUS + "  ".join([f"step {self.step + 1}", *known])
        files.append_line(self.folder / "metrics.jsonl", line)
        self.trackers.log(self.step, line)

    # --- sampling and judging ---------------------------------------------------------------------------------------

    def prompts(self, step: int, n: int, split: str) -> list[Prompt]:
        """The step's own slice of the stage's endless stream of prompts."""
        return self.task.prompts(split, n, self.seed, step * n)

    def rollout(self, prompts: Sequence[Prompt], group_size: int, temperature: float, opponent: str,
                seed: int, engine: Engine | None = None) -> tuple[list[Trajectory], Usage]:
        """group_size trajectories per prompt, in prompt order, from the engine or from the user's function."""
        engine = engine or self.engine
        if self._rollout_func is not None:
            return custom.rollout_by(self._rollout_func, engine, self.task, prompts, group_size=group_size,  # type: ignore[arg-type]
                                     temperature=temperature, seed=seed)
        return rollout(engine, self.task, prompts, group_size=group_size, temperature=temperature, opponent=opponent,
                       seed=seed)

    def opponent(self, step: int) -> str:
        """Opponents take turns."""
        names = self.config.opponents or self.task.opponents[:1]
        return str(names[step % len(names)])

    def judge_cost(self, calls: int) -> Usage:
        """What judging so many trajectories has cost, since the last time that this was asked."""
        tokens, cost = self.judge.spent_tokens()
        return Usage(judge_calls=calls, judge_flops=calls * self.judge.flops_per_call + self.judge.spent_flops(),
                     judge_tokens=tokens, judge_cost=cost)

    def keep_rollouts(self, source: str, groups: Sequence[Group]) -> None:
        """Append the trajectories of groups, with every score and reason, to rollouts.jsonl."""
        for group in groups:
            for t, s in zip(group.trajectories, group.scores, strict=True):
                self.keep_rollout(source, t, s)

    def keep_rollout(self, source: str, t: Trajectory, score: Score, gold: Score | None = None, **more: Any) -> None:
        """Append one trajectory to rollouts.jsonl."""
        extra = {**({} if gold is None else {"gold": _score(gold)}), **more}
        files.append_line(self.folder / "rollouts.jsonl", {
            "step": self.step, "source": source, **self.describe(t), "score": _score(score), **extra})

    def describe(self, t: Trajectory) -> dict[str, Any]:
        """A trajectory for readers."""
        text = self.run.tokenizer.decode(t.token_ids.tolist())
        return {"prompt_id": t.prompt_id, "sample": t.sample, "policy_version": t.policy_version, "text": text,
                "finish": t.finish.value, "info": dict(t.info)}


def in_run(judge: Plugin, folder: Path) -> Plugin:
    """The judge whose options that name a stage of the recipe ("stage:rm") name its checkpoint in the run folder instead."""

    def found(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: found(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [found(v) for v in value]
        return located(value, folder) if isinstance(value, str) else value

    return Plugin(name=judge.name, **found(judge.options))


def located(source: str, folder: Path) -> str:
    """A checkpoint's name; of "stage:<name>" that of the stage in the run folder."""
    return f"{folder}:{source.removeprefix(STAGE)}" if source.startswith(STAGE) else source


def _score(s: Score) -> dict[str, Any]:
    return {"value": s.value, "reason": s.reason}


def _sample_line(s: Sample) -> str:
    arrays = {"token_ids": s.token_ids, "mask": s.mask, "advantages": s.advantages, "logprobs": s.logprobs}
    return json.dumps({k: v.tolist() for k, v in arrays.items()}) + "\n"
