"""One optimiser step: micro-batches through the model, their gradients added up, clipped and applied, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from outdo.models import score
from outdo.models.base import LanguageModel
from outdo.models.critic import Critic
from outdo.models.flops import forward_flops, update_flops
from outdo.system.machine import round_rows
from outdo.training.batch import MicroBatch, micro_batches
from outdo.training.optimizer import Optimizer
from outdo.types import BoolArray, FloatArray, IntArray, OfVocabulary, Sample, TokenBatch, Total, Usage

_VALUE_WEIGHT = 0.5  # of the critic's squared error beside the policy's loss
_LOGITS = 1 << 23  # float32 numbers of the vocabulary's distributions at a time


Loss = Callable[[TokenBatch, Total], tuple[Tensor, dict[str, Tensor]]]


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite. The weights are as they were before the step; `samples` are the batch."""

    def __init__(self, what: str, samples: Sequence[Sample]) -> None:
        super().__init__(f"{what} is not finite")
        self.samples = samples


class Trainer:
    """A model, its optimiser and the number of steps they have taken."""

    def __init__(self, model: LanguageModel, optimizer: Optimizer, dtype: torch.dtype, *, micro_tokens: int = 8192,
                 max_grad_norm: float = 1.0, temperature: float = 1.0, critic: Critic | None = None,
                 critic_model: LanguageModel | None = None, vocabulary: bool = False,
                 teacher: LanguageModel | None = None) -> None:
        """critic_model: whose hidden states the critic reads, trained for that alone (default: the policy's own).

        vocabulary: whether losses call `batch.vocabulary`. teacher: whose distributions they see there, a frozen model.
        """
        self.model, self.optimizer, self.dtype = model, optimizer, dtype
        self.micro_tokens, self.max_grad_norm, self.temperature = micro_tokens, max_grad_norm, temperature
        self.critic, self.critic_model, self.wants_vocabulary, self.teacher = critic, critic_model, vocabulary, teacher
        self.parameters, self.critic_parameters = _training(model), list(critic.parameters()) if critic else []
        if critic_model is None:
            self.parameters, self.critic_parameters = self.parameters + self.critic_parameters, []
        else:
            self.critic_parameters += _training(critic_model)
        self._teacher_weights: Any = None
        self.steps = 0

    def step(self, samples: Sequence[Sample], loss: Loss, lr_scale: float = 1.0) -> tuple[dict[str, float], Usage]:
        """Train once on all samples. Returns per-token means of the algorithm's metrics, and what it cost.

        Raises NonFiniteError before any weight changes, ValueError if no token trains.
        """
        batches = micro_batches(samples, self.micro_tokens, *self._layout)
        total = sum(len(b.targets_N) for b in batches)
        whole = Total(total, sum(bool(s.mask.any()) for s in samples))
        if total == 0:
            raise ValueError(f"no token trains in these {len(samples)} samples")
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        usage = Usage()
        for batch in batches:
            part, metrics = self._backward(batch.to(self.model.device), loss, whole)
            if not np.isfinite(part):
                raise NonFiniteError("the loss", samples)
            for name, value in {"loss": torch.tensor(part * total), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            usage += self._cost(batch)
        norms = {"grad_norm": float(nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))}
        if self.critic_parameters:
            norms["critic_grad_norm"] = float(nn.utils.clip_grad_norm_(self.critic_parameters, self.max_grad_norm))
        if not np.isfinite(list(norms.values())).all():
            raise NonFiniteError("the gradient norm", samples)
        self.optimizer.step(lr_scale)
        usage += Usage(update_flops=self.optimizer.flops)
        self.steps += 1
        padded = sum(b.tokens_BT.numel() for b in batches)
        waste = 1.0 - usage.train_tokens / padded
        return {**{k: v / total for k, v in sums.items()}, **norms, "trained_tokens": float(total),
                "padding_waste": waste}, usage

    def _backward(self, batch: MicroBatch, loss: Loss, total: Total) -> tuple[float, dict[str, Tensor]]:
        tokens = self._tokens(batch)
        logprobs, values = tokens.logprobs, tokens.values
        value, metrics = loss(tokens, total)
        metrics = {**metrics, "logprob_gap": (logprobs.detach() - batch.old_logprobs_N).abs().sum()}
        if values is not None and batch.returns_N is not None:
            errors = (values - batch.returns_N).square().sum()
            value = value + _VALUE_WEIGHT * errors / total.tokens
            metrics["value_error"] = errors.detach()
        value.backward()  # type: ignore[no-untyped-call]
        part = float(value.detach())
        if self.critic_model is not None and batch.returns_N is not None:
            metrics["value_error"] = self._critic_backward(batch, total)
            part += _VALUE_WEIGHT * float(metrics["value_error"]) / total.tokens
        return part, metrics

    def _critic_backward(self, batch: MicroBatch, total: Total) -> Tensor:
        """The critic's own model on the batch, after the policy's activations are freed -> its summed squared error."""
        assert self.critic is not None and self.critic_model is not None and batch.returns_N is not None
        packed, N = self.critic_model.pack(self.dtype), len(batch.targets_N)
        predicts = F.pad(batch.predicts_N, (0, round_rows(N) - N))
        hidden = self.critic_model.hidden(packed, batch.tokens_BT, batch.segments_BT, predicts, batch.prompts)
        errors = (self.critic(hidden)[:N] - batch.returns_N).square().sum()
        (_VALUE_WEIGHT * errors / total.tokens).backward()
        summed: Tensor = errors.detach()
        return summed

    @property
    def head(self) -> Critic | None:
        """The critic, if it reads the policy's own hidden states: sampling can compute its values."""
        return self.critic if self.critic_model is None else None

    def values(self, rows: Sequence[tuple[IntArray, BoolArray]]) -> tuple[list[FloatArray], Usage]:
        """What the critic's own model expects before each masked token of rows (token ids [T], mask [T]), and what it cost."""
        critic, model = self.critic, self.critic_model
        assert critic is not None and model is not None
        found, usage = score.read(model, self.dtype, rows, self.micro_tokens, lambda _, hidden, __: critic(hidden), outputs=1)
        return found, Usage(reference_flops=usage.prefill_flops)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [N] of the trained tokens at the sampling temperature, and the critic's values [N] before them.

        Both float32, with gradient.
        """
        tokens = self._tokens(batch)
        return tokens.logprobs, tokens.values

    def _tokens(self, batch: MicroBatch) -> TokenBatch:
        """What a loss sees of the batch."""
        packed, N = self.model.pack(self.dtype), len(batch.targets_N)
        padding = (0, round_rows(N) - N)
        predicts, targets = F.pad(batch.predicts_N, padding), F.pad(batch.targets_N, padding)
        hidden = self.model.hidden(packed, batch.tokens_BT, batch.segments_BT, predicts, batch.prompts)
        logprobs = self.model.logprobs(packed, hidden, targets, self.temperature)[:N]
        vocabulary = self._vocabulary(batch, packed, hidden[:N]) if self.wants_vocabulary else None
        values = None if self.head is None else self.head(hidden)[:N]
        return TokenBatch(logprobs, batch.old_logprobs_N, batch.advantages_N, batch.sequence_N, batch.ref_logprobs_N, values,
                          vocabulary)

    def _vocabulary(self, batch: MicroBatch, packed: Any, hidden: Tensor) -> Callable[[OfVocabulary], Tensor]:
        """See `TokenBatch.vocabulary`: a few rows of logits exist at a time, and are computed again in the backward pass."""
        theirs: tuple[Tensor, ...] = self._taught(batch)
        rows = max(1, _LOGITS // self.model.config.vocab_size)

        def piece(function: OfVocabulary, own: Tensor, *other: Tensor) -> Tensor:
            logprobs = (self.model.logits(packed, own) / self.temperature).log_softmax(-1)
            if not other:
                return function(logprobs, None)
            if self.teacher is None:  # what lies beyond its likeliest tokens is not known
                ids, known = other
                return function(logprobs, torch.full_like(logprobs, -torch.inf).scatter(1, ids, known))
            with torch.no_grad():
                taught = self.teacher.logits(self._teacher_weights, *other)[:, : logprobs.shape[1]] / self.temperature
            return function(logprobs[:, : taught.shape[1]], taught.log_softmax(-1))

        def call(function: OfVocabulary) -> Tensor:
            out = []
            for i in range(0, len(hidden), rows):
                other = (x[i : i + rows] for x in theirs)
                out.append(checkpoint(piece, function, hidden[i : i + rows], *other, use_reentrant=False))
            return torch.cat(out) if out else hidden.new_zeros(0, dtype=torch.float32)

        return call

    @torch.no_grad()
    def _taught(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        """The teacher's hidden states [N, D] where the policy's are; without a teacher what the batch holds of one."""
        if self.teacher is None:
            given = batch.taught_ids_NK, batch.taught_logprobs_NK
            return tuple(x for x in given if x is not None)
        if self._teacher_weights is None:
            self._teacher_weights = self.teacher.pack(self.dtype)
        prompts = batch.prompts if self.teacher.shares_prompts else None
        assert prompts is batch.prompts, "rows that share prompts need a teacher that can"
        return (self.teacher.hidden(self._teacher_weights, batch.tokens_BT, batch.segments_BT, batch.predicts_N, prompts),)

    @property
    def _layout(self) -> tuple[bool, bool]:
        """Whether samples share prompts, and whether rows are long: only where the teacher reads such rows as well."""
        models = [self.model] if self.teacher is None else [self.model, self.teacher]
        return all(m.shares_prompts for m in models), all(m.long_rows(self.dtype) for m in models)

    def _cost(self, batch: MicroBatch) -> Usage:
        n, b = batch.lengths, batch.begins
        tokens, attended = int((n - b).sum()), int(((n * (n + 1) - b * (b + 1)) // 2).sum())
        c, N = self.model.config, len(batch.targets_N)
        flops = update_flops(c, tokens, attended, N)
        if self.wants_vocabulary:  # the head once more: forward, again for the backward pass, and twice in it
            flops += 4 * 2.0 * N * c.hidden_size * c.vocab_size
        if self.critic_model is not None:
            flops += update_flops(self.critic_model.config, tokens, attended, N, outputs=1)
        taught = 0.0 if self.teacher is None else forward_flops(self.teacher.config, tokens, attended, N)
        return Usage(train_tokens=tokens, update_flops=flops, reference_flops=taught)


def _training(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
