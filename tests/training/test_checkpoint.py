"""Checkpoints: training goes on to the bit, and nothing but numbers is ever read back.

Run: .venv/bin/python -m pytest tests/training/test_checkpoint.py   (about 3 s on one core)
"""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import SMALL, decoder, samples, tokenizer

from outdo.algorithms.sft import Sft
from outdo.errors import UserError
from outdo.models import hf
from outdo.models.critic import Critic
from outdo.recipe import OptimizerConfig
from outdo.system import files
from outdo.training import checkpoint
from outdo.training.optimizer import Optimizer
from outdo.training.step import Trainer

KINDS = ["adamw", "muon"]


def trainer(kind: str = "adamw", seed: int = 0, dtype: torch.dtype = torch.float32) -> Trainer:
    model = decoder(SMALL, seed)
    return Trainer(model, Optimizer(model, OptimizerConfig(kind=kind, weight_decay=0.1)), dtype)  # type: ignore[arg-type]


def train(t: Trainer, steps: int) -> None:
    for step in range(t.steps, t.steps + steps):
        t.step(samples([9, 4, 17], seed=step), Sft().loss, lr_scale=1.0 / (1 + step))


def save(t: Trainer, folder: Path, step: int = 7) -> None:
    hf.save(t.model, tokenizer(SMALL.vocab_size), folder)
    checkpoint.save(t, checkpoint.Progress(step, 2), folder)


def test_a_critic_continues_to_the_bit(tmp_path: Path) -> None:
    def critical(seed: int = 0) -> Trainer:
        model, critic = decoder(SMALL, seed), Critic(SMALL.hidden_size)
        return Trainer(model, Optimizer(model, OptimizerConfig(lr=1e-2), critic), torch.float32, critic=critic)

    def learn(t: Trainer, steps: int) -> None:
        for step in range(t.steps, t.steps + steps):
            batch = [replace(s, returns=np.float32(0.7 * s.mask)) for s in samples([9, 4, 17], seed=step)]
            errors.append(t.step(batch, Sft().loss)[0]["value_error"])

    errors: list[float] = []
    through = critical()
    learn(through, 20)
    assert errors[0] == pytest.approx(0.49) and errors[-1] < 0.1, "it begins at zero and learns"
    save(through, tmp_path)
    learn(through, 3)
    resumed = critical(seed=5)
    hf.load_weights(resumed.model, tmp_path)
    checkpoint.load(resumed, tmp_path)
    learn(resumed, 3)
    assert errors[-3:] == errors[-6:-3]
    for a, b in zip(resumed.parameters, through.parameters, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_training_continues_to_the_bit(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    through = trainer(kind, dtype=dtype)
    train(through, 3)
    save(through, tmp_path)
    train(through, 3)
    resumed = trainer(kind, seed=5, dtype=dtype)
    hf.load_weights(resumed.model, tmp_path)
    assert checkpoint.load(resumed, tmp_path) == checkpoint.Progress(7, 2)
    assert resumed.steps == checkpoint.load_steps(tmp_path) == 3
    train(resumed, 3)
    assert resumed.steps == through.steps == 6
    for a, b in zip(resumed.model.parameters(), through.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizers_state_matters(kind: str, tmp_path: Path) -> None:
    """The test above is not vacuous: weights alone do not continue the run."""
    through = trainer(kind)
    train(through, 3)
    save(through, tmp_path)
    train(through, 1)
    forgetful = trainer(kind)
    hf.load_weights(forgetful.model, tmp_path)
    forgetful.steps = 3
    train(forgetful, 1)
    assert any(not torch.equal(a, b)
               for a, b in zip(forgetful.model.parameters(), through.model.parameters(), strict=True))  # fmt: skip


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrap", ["torch", "pickle", "inside the optimizer"])
def test_pickled_code_is_refused(wrap: str, tmp_path: Path) -> None:
    t, target = trainer(), tmp_path / "was_here"
    save(t, tmp_path)
    file, bomb = tmp_path / checkpoint.FILE, Bomb(target)
    if wrap == "torch":
        torch.save(bomb, file)
    elif wrap == "pickle":
        file.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"optimizer": [bomb], "optimizer_steps": 0, "step": 0, "evaluated": 0}, file)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(t, tmp_path)
    assert not target.exists()
    if wrap == "pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert target.exists(), "the bomb was a dud"


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "another kind", "no steps", "not a table"])
def test_damaged_state_is_a_user_error(damage: str, tmp_path: Path) -> None:
    t = trainer()
    train(t, 1)
    save(t, tmp_path)
    file = tmp_path / checkpoint.FILE
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "another kind":
        checkpoint.save(trainer("muon"), checkpoint.Progress(1, 0), tmp_path)
    elif damage == "no steps":
        state = torch.load(file, weights_only=True)
        del state["optimizer_steps"]
        torch.save(state, file)
    else:
        torch.save(torch.zeros(3), file)
    with pytest.raises(UserError, match="checkpoint"):
        checkpoint.load(t, tmp_path)
    assert t.steps == 1


def test_checkpoints_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """huggingface_hub's writer makes files that only their owner can read."""
    model = decoder(SMALL)
    files.write_folder(tmp_path / "c", lambda folder: hf.save(model, tokenizer(SMALL.vocab_size), folder))
    os.umask(mask := os.umask(0))
    assert {f.stat().st_mode & 0o777 for f in (tmp_path / "c").iterdir()} == {0o666 & ~mask}
