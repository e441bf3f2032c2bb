"""`outdo.watch(trainer, gold=fn)`: the live audit on a trainer of TRL, without changing its source.

The trainer's own completions are scored by gold as they come (every `every` steps, at most `n`), beside the reward that trained
on them. Alarms are printed and logged; with action "stop" the trainer stops after its step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from outdo.errors import check
from outdo.evaluation.gauge import NAMES, Gauge, Probe, Settings
from outdo.judges.function import FunctionJudge
from outdo.system import files
from outdo.types import Finish, Trajectory


class Watch:
    """What `watch` returns: `gauge.records` holds a row a probe; `alarm` the record that alarmed, or None."""

    def __init__(self, gauge: Gauge, judge: FunctionJudge, every: int, n: int, action: str, file: Path | None) -> None:
        self.gauge, self.judge, self.every, self.n, self.action, self.file = gauge, judge, every, n, action, file
        self.alarm: dict[str, Any] | None = None
        self._held: list[tuple[Trajectory, float]] = []

    @property
    def best_step(self) -> int | None:
        """The step with the best gold before the change that alarmed."""
        best = self.gauge.best()
        return None if best is None else int(best["step"])

    def take(self, inputs: Sequence[dict[str, Any]], prompts: Sequence[Any], completions: Sequence[Any], rewards: Sequence[float],
             step: int) -> bool:
        """A batch of the trainer's. True if it is to stop."""
        for i, (row, p, c, r) in enumerate(zip(inputs, prompts, completions, rewards, strict=True)):
            info = {**row, "prompt": p, "completion": c}
            ids = np.zeros(2, np.int64)
            held = Trajectory(f"{step}/{i}", 0, ids, np.array([False, True]), np.zeros(2, np.float32), step, Finish.STOP, info)
            self._held.append((held, float(r)))
        last = self.gauge.records[-1]["step"] if self.gauge.records else None
        if last is not None and step - last < self.every:
            return False
        wanted = self.n * (2 if last is None else 1)
        if last is None and len(self._held) < wanted and step < self.every:
            return False
        some, self._held = self._held[-wanted:], []
        gold = [np.nan if s.value is None else s.value for s in self.judge.score([t for t, _ in some])]
        reward = np.array([r for _, r in some])
        probe = Probe(step, reward, gold, broken=(0, len(some)), unusable=int((~np.isfinite(reward)).sum()))
        record = self.gauge.start(probe) if last is None else self.gauge.look(probe)
        if self.file is not None:
            files.append_line(self.file, record)
        if record["alarm"] and self.alarm is None:
            self.alarm = record
            print(f"outdo: audit alarm {record['alarm']} at step {step}: {NAMES[record['alarm']]} (reward "
                  f"{record['reward']:.3g}, gold "
                  f"{record['gold'] if record['gold'] is None else round(record['gold'], 3)}); best by gold: step "
                  f"{self.best_step}")
            return self.action == "stop"
        return False


def watch(trainer: Any, gold: Callable[..., Any], *, every: int = 10, n: int = 128, alpha: float = 0.05, margin: float = 0.02,
          horizon: int = 40, action: Literal["stop", "log"] = "stop") -> Watch:
    """Attach the live audit to a trainer of TRL that has reward functions (GRPOTrainer, RLOOTrainer) -> `Watch`.

    gold: a reward function in any signature that outdo reads; it never trains. The rest as in a recipe's [audit]. The samples
    are the batch's own, not fresh ones: prompts that come again weaken the promise of alpha. Raises UserError.
    """
    check(hasattr(trainer, "_calculate_rewards") and hasattr(trainer, "add_callback"),
          f"{type(trainer).__name__} is no trainer with reward functions that outdo knows; GRPOTrainer and RLOOTrainer of TRL "
          "are")
    from transformers import TrainerCallback

    folder = Path(trainer.args.output_dir)
    made = Watch(Gauge(Settings(alpha, margin, horizon)), FunctionJudge.of([gold]), every, n, action, folder / "audit.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    own = trainer._calculate_rewards
    stop = False

    def calculate(inputs: Any, prompts: Any, completions: Any, *more: Any) -> Any:
        nonlocal stop
        rewards = own(inputs, prompts, completions, *more)
        weights = getattr(trainer, "reward_weights", None)
        total = rewards if weights is None else rewards * weights.to(rewards.device).unsqueeze(0)
        if trainer.model.training:
            values = total.nansum(-1)[-len(inputs) :].tolist()
            stop = made.take(inputs, prompts, completions, values, int(trainer.state.global_step)) or stop
        return rewards

    class Stop(TrainerCallback):
        """Ends the training after the step in which an alarm came."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            """See TrainerCallback."""
            control.should_training_stop = control.should_training_stop or stop
            control.should_save = control.should_save or stop
            return control

    trainer._calculate_rewards = calculate
    trainer.add_callback(Stop())
    return made
