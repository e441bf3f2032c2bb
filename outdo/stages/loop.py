"""What every stage's loop stands on: its budget, its place in the run folder, its evaluations, checkpoints and progress.

A stage is `for step in loop.steps():` around a few verbs; everything that is the same for all stages is here.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from outdo import plugins
from outdo.algorithms.base import Algorithm
from outdo.errors import UserError, check
from outdo.evaluation import forgetting
from outdo.evaluation.judging import recognises_wins
from outdo.evaluation.loss import DECODE, heldout_loss
from outdo.evaluation.measure import Measurement, measure
from outdo.judges.base import Judge
from outdo.ledger.ledger import Clock, Ledger
from outdo.models import hf
from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.recipe import AnyStage, Plugin, Recipe, Rl, Rollouts
from outdo.rollout import custom
from outdo.rollout.custom import RolloutFunc
from outdo.rollout.engine import Engine
from outdo.rollout.episodes import rollout
from outdo.system import files, randomness
from outdo.system.trackers import Trackers
from outdo.tasks.base import Task
from outdo.text.rows import Rows
from outdo.training import checkpoint
from outdo.training.optimizer import Optimizer, lr_scale
from outdo.training.step import NonFiniteError, Trainer
from outdo.types import Group, IntArray, Prompt, Sample, Score, Trajectory, Usage


@dataclass
class Run:
    """What all stages of a run share."""

    recipe: Recipe
    folder: Path
    task: Task
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    gold: Judge
    dtype: torch.dtype
    heldout: list[Prompt]  # the evaluation's prompts
    pairs: list[tuple[IntArray, IntArray]]  # for the judging test; empty if the task has none
    show: Callable[[str, float, str], None]  # (stage, share done, message)
    rows: Rows | None = None  # given from Python in place of the imitation stages' `data`
    unseen: Rows | None = None  # and of their `heldout_data`
    rollout: RolloutFunc | None = None  # given from Python in place of the stages' `rollout`
    interrupted: bool = False  # a first Ctrl-C: stop after this step
    further: dict[str, list[Prompt]] = field(default_factory=dict)  # the evaluation's prompts of further splits, by split
    corpus: forgetting.Corpus | None = None  # None: forgetting is not measured
    extra: dict[str, Any] = field(default_factory=dict)


class Loop:
    """One stage at work."""

    def __init__(self, run: Run, name: str, model: LanguageModel) -> None:
        self.run, self.name, self.model = run, name, model
        self.config: AnyStage = run.recipe.stage[name]
        self.task, self.seed = run.task, randomness.key(run.recipe.seed, name)
        self.folder = run.folder / "stages" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        optimizer, self.algorithm = self.config.optimizer, _algorithm(self.config)
        critic = Critic(model.config.hidden_size).to(model.device) if self.algorithm.critic else None
        self.trainer = Trainer(model, Optimizer(model, optimizer, critic), run.dtype,
                               micro_tokens=optimizer.micro_tokens, max_grad_norm=optimizer.max_grad_norm,
                               temperature=getattr(self.config, "temperature", 1.0), critic=critic)
        self.engine = Engine(model, run.dtype, run.recipe.slots)
        own = getattr(self.config, "judge", None)
        self.judge: Judge = plugins.make("judges", own, Judge) if own else run.judge  # type: ignore[type-abstract]
        self.unseen: Sequence[Sample] = ()  # of rows: what the loss is measured on
        self._rollout_func: RolloutFunc | None = None
        if isinstance(self.config, Rollouts) and self.config.rollout is not None:
            self._rollout_func = run.rollout or plugins.load(self.config.rollout)
            check(critic is None, f"stage.{name}.rollout: a critic's values are not known of what a function generates; choose "
                  "another algorithm")
            run.show(name, 0.0, custom.NOTICE)
        self.clock = Clock.start()
        self._updating = {"wall_s": 0.0, "cpu_s": 0.0}  # since the last entry in the ledger
        self._last_checkpoint_s = self.clock.wall
        self._step, self._evaluated = self._resume()
        self.trackers = Trackers(run.recipe.trackers, run.recipe.model_dump(mode="json"), run.folder, name, self._step)

    # --- budget -----------------------------------------------------------------------------------------------------

    @property
    def spent(self) -> float:
        """Share of the budget spent, in [0, 1] and beyond."""
        flops, steps = self.run.recipe.budget_flops(self.name), self.config.steps
        by_flops = self.ledger.train.flops / flops if flops else 0.0
        return max(by_flops, self._step / steps if steps else 0.0)

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is spent. Between two steps: evaluation, checkpoint, progress, Ctrl-C."""
        if self.run.interrupted:  # while the stage before was being measured
            raise KeyboardInterrupt
        if not self.begun:
            self._evaluate()
        while self.spent < 1.0:
            yield self._step
            self._step += 1
            self._after_step()
        self._finish()

    @property
    def begun(self) -> bool:
        """Whether an earlier process came to this stage's first checkpoint."""
        return self._step > 0 or self._evaluated > 0

    @property
    def lr_scale(self) -> float:
        return lr_scale(self.config.optimizer, self.spent, self.trainer.steps)

    def train(self, samples: Sequence[Sample]) -> tuple[dict[str, float], Usage]:
        """One optimiser step; a batch that gives a non-finite loss is kept for inspection and ends the run."""
        clock = Clock.start()
        self.engine.release()
        try:
            return self.trainer.step(samples, self.algorithm.loss, self.lr_scale)
        except NonFiniteError as e:
            kept = self.folder / f"nonfinite_step_{self._step}.jsonl"
            files.write_text(kept, "".join(_sample_line(s) for s in e.samples))
            raise UserError(f"stage {self.name}, step {self._step}: {e}; the weights are untouched and the batch is in "
                            f"{kept}; lower the learning rate or mend the data, then --resume {self.run.folder}") from None
        finally:
            self._updating = {k: seconds + self._updating[k] for k, seconds in clock.read().items()}

    def book(self, usage: Usage, metrics: dict[str, float]) -> None:
        """Write down what this step cost and measured. Every step calls it once."""
        wall, threads = self._updating["wall_s"], torch.get_num_threads()
        cores = self._updating["cpu_s"] if self.model.device.type == "cpu" else wall * threads
        measured = {**self.clock.read(), "update_s": wall, "update_core_s": cores, "threads": threads}
        self.ledger.book(self._step, "train", usage, measured)
        self._updating = dict.fromkeys(self._updating, 0.0)
        line = {"step": self._step, "flops": self.ledger.train.flops, **{k: float(v) for k, v in metrics.items()}}
        files.append_line(self.folder / "metrics.jsonl", line)
        self.trackers.log(self._step, line)

    # --- data -------------------------------------------------------------------------------------------------------

    def prompts(self, step: int, n: int, split: str) -> list[Prompt]:
        """The step's own slice of the stage's endless stream of prompts."""
        return self.task.prompts(split, n, self.seed, step * n)

    def rollout(self, prompts: Sequence[Prompt], group_size: int, temperature: float, opponent: str,
                seed: int) -> tuple[list[Trajectory], Usage]:
        """group_size trajectories per prompt, in prompt order, from the engine or from the user's function."""
        if self._rollout_func is not None:
            return custom.rollout_by(self._rollout_func, self.engine, self.task, prompts, group_size=group_size,  # type: ignore[arg-type]
                                     temperature=temperature, seed=seed)
        return rollout(self.engine, self.task, prompts, group_size=group_size, temperature=temperature, opponent=opponent,
                       seed=seed)

    def opponent(self, step: int) -> str:
        """Opponents take turns."""
        names = self.config.opponents or self.task.opponents[:1]
        return names[step % len(names)]

    def keep_rollouts(self, source: str, groups: Sequence[Group], gold: Sequence[Score] = ()) -> None:
        """Append trajectories with every score and reason to rollouts.jsonl."""
        golds = list(gold)
        for group in groups:
            for t, s in zip(group.trajectories, group.scores, strict=True):
                extra = {"gold": _score(golds.pop(0))} if golds else {}
                files.append_line(self.folder / "rollouts.jsonl", {
                    "step": self._step, "source": source, **self.describe(t), "score": _score(s), **extra})

    def describe(self, t: Trajectory) -> dict[str, Any]:
        """A trajectory for readers."""
        text = self.run.tokenizer.decode(t.token_ids.tolist())
        return {"prompt_id": t.prompt_id, "sample": t.sample, "policy_version": t.policy_version, "text": text,
                "finish": t.finish.value, "info": dict(t.info)}

    def judge_cost(self, calls: int) -> Usage:
        """What judging so many trajectories has cost, since the last time that this was asked."""
        return Usage(judge_calls=calls, judge_flops=calls * self.judge.flops_per_call + self.judge.spent_flops())

    # --- between steps ----------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        due = int(min(self.spent, 1.0) * self.run.recipe.evaluation.points + 1e-9)
        if due > self._evaluated and self.spent < 1.0:
            self._evaluated = due
            self._evaluate()
        self.run.show(self.name, self.spent, "")
        interrupted = self.run.interrupted  # read once: whoever stops here has been saved
        old = self.clock.wall - self._last_checkpoint_s >= self.run.recipe.checkpoint_s
        if (old and self.spent < 1.0) or interrupted:
            self._checkpoint()
        if interrupted:
            raise KeyboardInterrupt

    def _finish(self) -> None:
        if self._evaluated < self.run.recipe.evaluation.points:  # else an earlier process came to just before done.json
            self._evaluated = self.run.recipe.evaluation.points
            self._evaluate()
        self._checkpoint(final=True)
        self.trackers.close()
        self.run.show(self.name, 1.0, "")

    def _play(self, temperature: float, opponent: str) -> Callable[[Sequence[Prompt]], tuple[list[Trajectory], Usage]]:
        samples = self.run.recipe.evaluation.samples if temperature else 1

        def play(prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Usage]:
            return self.rollout(prompts, samples, temperature, opponent, seed=1)

        return play

    def _evaluate(self) -> None:
        """Sampled and greedy against the first opponent; at the end of the stage against all of them, on further splits, too,
        and on the corpus. What a tree starts from is tried on these as well."""
        last = self._evaluated >= self.run.recipe.evaluation.points
        root = self._evaluated == 0 and self.run.recipe.parent(self.name) is None
        if self.unseen:
            self._measure_loss(last)
        if self.run.corpus and (last or root):
            self._read(self.run.corpus, last)
        if not self.run.heldout:
            return
        if self._evaluated == 0 and (rows := self._inherited()):
            for row in rows:
                files.append_line(self.folder / "evaluations.jsonl", {**row, "step": 0, "point": 0, "flops": 0.0, "last": False})
                self.trackers.log(0, {"value": row["value"], **row["extra"]}, f"evaluation/{row['decode']}/{row['opponent']}/")
            return
        self.engine.load(self.trainer.steps)
        e = self.run.recipe.evaluation
        opponents = (e.opponents or self.task.opponents) if last else self.task.opponents[:1]
        tried = [(e.split, self.run.heldout, opponent) for opponent in opponents]
        tried += [(split, prompts, opponents[0]) for split, prompts in self.run.further.items() if last or root]
        scorers = {"reward": self.judge.score, "gold": self.run.gold.score}
        recognised = None
        if self.run.pairs:
            win_id = self.run.extra["win_id"]
            recognised = recognises_wins(self.model, self.run.dtype, self.run.pairs, win_id)
        for split, prompts, opponent in tried:
            for decode, temperature in (("sampled", 1.0), ("greedy", 0.0)):
                m = measure(self.task, self._play(temperature, opponent), prompts, scorers)
                files.append_line(self.folder / "evaluations.jsonl", {
                    "step": self._step, "point": self._evaluated, "flops": self.ledger.train.flops, "last": last, "split": split,
                    "decode": decode, "opponent": opponent, **m.record(), "judging": recognised})
                place = "" if split == e.split else f"{split}/"
                self.trackers.log(self._step, {"value": m.value, **m.extra}, f"evaluation/{place}{decode}/{opponent}/")
                if last and (split, opponent) == (e.split, opponents[0]):
                    self._keep_examples(m, decode)
                judging = Usage(judge_flops=self.judge.spent_flops() + self.run.gold.spent_flops())
                self.ledger.book(self._step, "evaluate", m.usage + judging, self.clock.read())
                against = ("" if opponent == "none" else f" vs {opponent}") + ("" if split == e.split else f", {split}")
                self.run.show(self.name, self.spent, f"{decode} {m.value:.1%}{against}")
        self.judge.logged()  # what functions logged here belongs to no step

    def _inherited(self) -> list[dict[str, Any]]:
        """How the stage that this one starts from was measured at its end: the same weights on the same prompts.

        Empty where somebody else judges or generates here than there.
        """
        recipe, parent = self.run.recipe, self.run.recipe.parent(self.name)
        if parent is None or not recipe.alike(self.name, parent):
            return []
        rows = files.read_lines(self.run.folder / "stages" / parent / "evaluations.jsonl")
        own = (recipe.evaluation.split, self.task.opponents[0])
        return [r for r in rows if r["last"] and r["decode"] != DECODE and (r.get("split", own[0]), r["opponent"]) == own]

    def _measure_loss(self, last: bool) -> None:
        """The loss on held-out rows -> evaluations.jsonl."""
        record, usage = heldout_loss(self.model, self.run.dtype, self.unseen, self.config.optimizer.micro_tokens)
        files.append_line(self.folder / "evaluations.jsonl", {
            "step": self._step, "point": self._evaluated, "flops": self.ledger.train.flops, "last": last,
            "decode": DECODE, "opponent": self.task.opponents[0], **record, "judging": None})
        self.trackers.log(self._step, {"value": record["value"]}, f"evaluation/{DECODE}/")
        self.ledger.book(self._step, "evaluate", usage, self.clock.read())
        self.run.show(self.name, self.spent, f"held-out loss {record['value']:.3f} nats a token")

    def _read(self, corpus: forgetting.Corpus, last: bool) -> None:
        """How well the model predicts the corpus -> forgetting.jsonl."""
        found, usage = forgetting.read(self.model, self.run.dtype, corpus)
        files.append_line(self.folder / "forgetting.jsonl", {"step": self._step, "point": self._evaluated, "last": last, **found})
        self.trackers.log(self._step, {"nats_per_token": found["value"]}, "forgetting/")
        self.ledger.book(self._step, "evaluate", usage, self.clock.read())
        self.run.show(self.name, self.spent, f"{found['value']:.3f} nats a token on the corpus")

    def _keep_examples(self, m: Measurement, decode: str) -> None:
        """Some wins and some losses of the last evaluation, move by move."""
        kept = self.run.recipe.evaluation.rollouts_kept
        order = np.argsort(-np.nan_to_num(m.answers), kind="stable")
        chosen = [m.trajectories[i] for i in dict.fromkeys([*order[: kept // 2], *order[::-1][: kept // 2]])]
        for t, s, g in zip(chosen, self.judge.score(chosen), self.run.gold.score(chosen), strict=True):
            files.append_line(self.folder / "rollouts.jsonl", {
                "step": self._step, "source": f"evaluate/{decode}", **self.describe(t), "score": _score(s),
                "gold": _score(g), "replay": self.task.replay(t)})

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self, final: bool = False) -> None:
        """Write checkpoints/<step>, then drop the ones before it."""
        target = self.folder / "checkpoints" / str(self._step)
        progress = checkpoint.Progress(self._step, self._evaluated)

        def fill(folder: Path) -> None:
            hf.save(self.model, self.run.tokenizer, folder)
            checkpoint.save(self.trainer, progress, folder)

        if not target.exists():  # interrupted right after the last step: saved already, the weights have not moved since
            files.write_folder(target, fill)
        for old in _checkpoints(self.folder):
            if old != target:
                files.remove_folder(old)
        if final:
            files.write_json(self.folder / "done.json", {"step": self._step, "checkpoint": f"checkpoints/{self._step}"})
        self.ledger.book(self._step, "checkpoint", Usage(), self.clock.read())
        self._last_checkpoint_s = self.clock.wall

    def _resume(self) -> tuple[int, int]:
        """Go back to the newest checkpoint, or to the start if there is none."""
        files.sweep(self.folder / "checkpoints")
        found = _checkpoints(self.folder)
        progress = checkpoint.Progress(0, 0)
        if found:
            hf.load_weights(self.model, found[-1])
            progress = checkpoint.load(self.trainer, found[-1])
        # Whatever was written after the checkpoint will be written again, to the bit.
        files.keep_lines(self.folder / "metrics.jsonl", lambda e: e["step"] < progress.step)
        for name in ("evaluations.jsonl", "forgetting.jsonl"):
            files.keep_lines(self.folder / name, lambda e: bool(found) and e["point"] <= progress.evaluated)
        at_end = progress.evaluated >= self.run.recipe.evaluation.points  # only the last evaluation keeps rollouts
        files.keep_lines(self.folder / "rollouts.jsonl", lambda e: e["step"] < progress.step or at_end)
        self.ledger.rewind(progress.step if found else -1)
        return progress.step, progress.evaluated


def _algorithm(stage: AnyStage) -> Algorithm:
    """What turns samples into a loss: the stage's choice, or imitation."""
    chosen = stage.algorithm if isinstance(stage, Rl) else Plugin(name="sft")
    return plugins.make("algorithms", chosen, Algorithm)  # type: ignore[type-abstract]


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a stage, oldest first."""
    found = [p for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    return sorted(found, key=lambda p: int(p.name))


def _score(s: Score) -> dict[str, Any]:
    return {"value": s.value, "reason": s.reason}


def _sample_line(s: Sample) -> str:
    arrays = {"token_ids": s.token_ids, "mask": s.mask, "advantages": s.advantages, "logprobs": s.logprobs}
    return json.dumps({k: v.tolist() for k, v in arrays.items()}) + "\n"


@contextmanager
def stop_gently(run: Run, announce: bool = True) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets the running step finish and be saved; the second stops at once."""

    def handle(signum: int, frame: Any) -> None:
        del signum, frame
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        if announce:  # print is not safe here: it may be the very call that the signal interrupted
            os.write(2, b"\noutdo: finishing and saving this step; Ctrl-C again stops at once\n")

    in_charge = threading.current_thread() is threading.main_thread()  # others get no signals
    old = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM) if in_charge}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
