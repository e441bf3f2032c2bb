"""One optimiser step: micro-batches through the model, their gradients added up, clipped and applied, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.models.flops import update_flops
from outdo.system.machine import round_rows
from outdo.training.batch import MicroBatch, micro_batches
from outdo.training.optimizer import Optimizer
from outdo.types import Sample, TokenBatch, Usage

_VALUE_WEIGHT = 0.5  # of the critic's squared error beside the policy's loss


Loss = Callable[[TokenBatch, int], tuple[Tensor, dict[str, Tensor]]]


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite. The weights are as they were before the step; `samples` are the batch."""

    def __init__(self, what: str, samples: Sequence[Sample]) -> None:
        super().__init__(f"{what} is not finite")
        self.samples = samples


class Trainer:
    """A model, its optimiser and the number of steps they have taken."""

    def __init__(self, model: LanguageModel, optimizer: Optimizer, dtype: torch.dtype, *, micro_tokens: int = 8192,
                 max_grad_norm: float = 1.0, temperature: float = 1.0, critic: Critic | None = None) -> None:
        self.model, self.optimizer, self.dtype = model, optimizer, dtype
        self.micro_tokens, self.max_grad_norm, self.temperature = micro_tokens, max_grad_norm, temperature
        self.critic = critic
        self.parameters = [*(p for p in model.parameters() if p.requires_grad), *(critic.parameters() if critic else ())]
        self.steps = 0

    def step(self, samples: Sequence[Sample], loss: Loss, lr_scale: float = 1.0) -> tuple[dict[str, float], Usage]:
        """Train once on all samples. Returns per-token means of the algorithm's metrics, and what it cost.

        Raises NonFiniteError before any weight changes, ValueError if no token trains.
        """
        batches = micro_batches(samples, self.micro_tokens, self.model.shares_prompts, self.model.long_rows(self.dtype))
        total = sum(len(b.targets_N) for b in batches)
        if total == 0:
            raise ValueError(f"no token trains in these {len(samples)} samples")
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        usage = Usage()
        for batch in batches:
            part, metrics = self._backward(batch.to(self.model.device), loss, total)
            if not np.isfinite(part):
                raise NonFiniteError("the loss", samples)
            for name, value in {"loss": torch.tensor(part * total), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            usage += self._cost(batch)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not np.isfinite(norm):
            raise NonFiniteError("the gradient norm", samples)
        self.optimizer.step(lr_scale)
        usage += Usage(update_flops=self.optimizer.flops)
        self.steps += 1
        padded = sum(b.tokens_BT.numel() for b in batches)
        waste = 1.0 - usage.train_tokens / padded
        return {**{k: v / total for k, v in sums.items()}, "grad_norm": norm, "trained_tokens": float(total),
                "padding_waste": waste}, usage

    def _backward(self, batch: MicroBatch, loss: Loss, total: int) -> tuple[float, dict[str, Tensor]]:
        logprobs, values = self.forward(batch)
        value, metrics = loss(TokenBatch(logprobs, batch.old_logprobs_N, batch.advantages_N, batch.sequence_N), total)
        metrics = {**metrics, "logprob_gap": (logprobs.detach() - batch.old_logprobs_N).abs().sum()}
        if values is not None:
            errors = (values - batch.returns_N).square().sum()
            value = value + _VALUE_WEIGHT * errors / total
            metrics["value_error"] = errors.detach()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach()), metrics

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [N] of the trained tokens at the sampling temperature, and the critic's values [N] before them.

        Both float32, with gradient.
        """
        packed, N = self.model.pack(self.dtype), len(batch.targets_N)
        padding = (0, round_rows(N) - N)
        predicts, targets = F.pad(batch.predicts_N, padding), F.pad(batch.targets_N, padding)
        hidden = self.model.hidden(packed, batch.tokens_BT, batch.segments_BT, predicts, batch.prompts)
        logprobs = self.model.logprobs(packed, hidden, targets, self.temperature)[:N]
        return logprobs, None if self.critic is None else self.critic(hidden)[:N]

    def _cost(self, batch: MicroBatch) -> Usage:
        n, b = batch.lengths, batch.begins
        tokens, attended = int((n - b).sum()), int(((n * (n + 1) - b * (b + 1)) // 2).sum())
        flops = update_flops(self.model.config, tokens, attended, len(batch.targets_N))
        return Usage(train_tokens=tokens, update_flops=flops)
