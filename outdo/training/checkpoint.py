"""Everything beside the weights that a stage needs to go on: the optimiser's state and how far it had come.

Randomness needs no state (see `outdo.system.randomness`) and the data position follows from the step, so step and steps suffice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from outdo.errors import UserError
from outdo.training.step import Trainer

FILE = "training_state.pt"


@dataclass(frozen=True)
class Progress:
    """How far a stage has come. Example: step 12 of its loop, 60 optimiser steps, evaluated at 2 points of its budget."""

    step: int
    evaluated: int
    further: dict[str, Any] = field(default_factory=dict)  # what else the stage kept: the algorithm's state, the reference


def save(trainer: Trainer, progress: Progress, folder: Path, final: bool = False, further: dict[str, Any] | None = None) -> None:
    """Write training_state.pt into a checkpoint folder; it says nothing of the device that the trainer is on.

    final: the stage is done, so the optimiser's state (twice the size of the weights) and a critic's own model are left out.
    further: what else the stage needs to go on.
    """
    apart = {} if final or trainer.critic_model is None else trained_weights(trainer.critic_model)
    state = {"optimizer": {} if final else trainer.optimizer.state_dict(), "optimizer_steps": trainer.steps,
             "step": progress.step, "evaluated": progress.evaluated,
             "critic": trainer.critic.state_dict() if trainer.critic is not None else {}, "critic_model": apart,
             "further": further or {}}
    with (folder / FILE).open("wb") as f:  # through Python's file: torch's own hides why a write failed
        torch.save(_on_cpu(state), f)


def load(trainer: Trainer, folder: Path) -> Progress:
    """Read it back into the trainer. Raises UserError."""
    state = _read(folder)
    try:
        if state["optimizer"]:  # empty at the end of a stage: only its last evaluation may be left to do
            trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.critic is not None:
            trainer.critic.load_state_dict(state["critic"])
        if trainer.critic_model is not None and state["critic_model"]:
            for name, weights in trained_weights(trainer.critic_model).items():
                weights.copy_(state["critic_model"][name])
    except (KeyError, ValueError, TypeError, RuntimeError) as e:
        raise UserError(f"checkpoint file {str(folder / FILE)!r} does not fit the optimizer ({e}); resume with the recipe "
                        "that wrote it, or delete this folder") from None
    trainer.steps = state["optimizer_steps"]
    return Progress(state["step"], state["evaluated"], state["further"])


def load_steps(folder: Path) -> int:
    """How many optimiser steps a checkpoint has behind it. Raises UserError."""
    return int(_read(folder)["optimizer_steps"])


def drop_optimizer(file: Path) -> int:
    """Take the optimiser's state out of a finished stage's file; returns the bytes that this frees."""
    before, state = file.stat().st_size, _read(file.parent)
    if not state["optimizer"]:
        return 0
    made = file.with_name(f".{file.name}.tmp")
    with made.open("wb") as f:
        torch.save({**state, "optimizer": {}, "critic_model": {}}, f)
    made.replace(file)
    return before - file.stat().st_size


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those of the parameters that train; the others are as at the stage's start."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _read(folder: Path) -> dict[str, Any]:
    """Only tensors and plain values are accepted, never pickled code."""
    try:
        state = dict(torch.load(folder / FILE, weights_only=True, map_location="cpu"))
        known = {key: state[key] for key in ("optimizer", "optimizer_steps", "step", "evaluated", "critic")}
        return {**known, "critic_model": state.get("critic_model", {}), "further": state.get("further", {})}
    except Exception as e:
        raise UserError(f"checkpoint file {str(folder / FILE)!r} cannot be read ({type(e).__name__}); "
                        "it is damaged: delete this folder and resume from an earlier one") from None


def _on_cpu(value: Any) -> Any:
    """Plain data with all tensors in it on the CPU."""
    if isinstance(value, dict):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_on_cpu(v) for v in value]
    return value.cpu() if isinstance(value, torch.Tensor) else value
