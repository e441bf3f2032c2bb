"""AdamW, or Muon for the matrices inside the layers with AdamW for the rest."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import nn

from outdo.models.adapt import in_layers
from outdo.recipe import OptimizerConfig
from outdo.training.muon import Muon, flops


def step_flops(model: nn.Module, config: OptimizerConfig) -> float:
    """Arithmetic of one step: Muon's matrix products. AdamW's few operations per weight are not counted."""
    return sum(flops(*p.shape) for name, p in model.named_parameters() if p.requires_grad and _for_muon(name, p, config))


def _for_muon(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> bool:
    return config.kind == "muon" and parameter.dim() == 2 and in_layers(name)


class Optimizer:
    """One or two torch optimisers behind one face; learning rates are scaled per step, never stored."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, critic: nn.Module | None = None) -> None:
        self.config = config
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (matrices if _for_muon(name, parameter, config) else rest).append(parameter)
        self.flops = step_flops(model, config)
        rest += list(critic.parameters()) if critic is not None else []
        self._parts: list[tuple[torch.optim.Optimizer, float]] = []
        if rest:
            adamw = torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, eps=config.eps,
                                      weight_decay=config.weight_decay, fused=True)
            self._parts.append((adamw, config.lr))
        if matrices:
            self._parts.append((Muon(matrices, config.muon_lr, weight_decay=config.weight_decay), config.muon_lr))

    def add(self, other: Optimizer) -> None:
        """From now on step another model's optimiser as well."""
        self._parts += other._parts
        self.flops += other.flops

    def zero_grad(self) -> None:
        for optimizer, _ in self._parts:
            optimizer.zero_grad(set_to_none=True)

    def step(self, lr_scale: float) -> None:
        """Apply the gradients at lr_scale times the configured learning rates."""
        for optimizer, lr in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * lr_scale
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for (optimizer, _), state in zip(self._parts, states, strict=True):
            optimizer.load_state_dict(state)


def lr_scale(config: OptimizerConfig, progress: float, step: int) -> float:
    """Learning-rate multiplier. progress: share of the stage's budget spent, in [0, 1]; step: optimiser steps taken."""
    scale = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    progress = min(max(progress, 0.0), 1.0)
    if config.decay == "linear":
        scale *= 1.0 - (1.0 - config.final_lr) * progress
    elif config.decay == "cosine":
        scale *= config.final_lr + (1.0 - config.final_lr) * 0.5 * (1.0 + cos(pi * progress))
    return scale
