"""The reference policy: a frozen copy of the weights that a stage starts from, or of a later policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from outdo.models import score
from outdo.models.base import LanguageModel
from outdo.types import BoolArray, FloatArray, IntArray, Usage


class Reference:
    """A copy of a model. moved: whether it has become a later policy, which a checkpoint then has to hold."""

    def __init__(self, model: LanguageModel, dtype: torch.dtype, batch_tokens: int) -> None:
        self.model, self.dtype, self.batch_tokens = copy.deepcopy(model).requires_grad_(False), dtype, batch_tokens
        self.moved = False

    def logprobs(self, rows: Sequence[tuple[IntArray, BoolArray]], temperature: float) -> tuple[list[FloatArray], Usage]:
        """[T] of each row: nats of its masked tokens, 0 elsewhere; and what that cost."""
        return whole(self.model, self.dtype, rows, self.batch_tokens, temperature)

    def refresh(self, model: LanguageModel) -> None:
        """Become what the model is now."""
        self.model.load_state_dict(model.state_dict())
        self.moved = True

    def state(self) -> dict[str, Any]:
        """Its weights, if they are not those of the stage's start."""
        return {k: v.clone() for k, v in self.model.state_dict().items()} if self.moved else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        if state:
            self.model.load_state_dict(state)
            self.moved = True


def whole(model: LanguageModel, dtype: torch.dtype, rows: Sequence[tuple[IntArray, BoolArray]], batch_tokens: int,
          temperature: float = 1.0) -> tuple[list[FloatArray], Usage]:
    """[T] of each row: a model's log-probs of its masked tokens, 0 elsewhere; what that cost, as reference_flops."""
    found, usage = score.token_logprobs(model, dtype, rows, batch_tokens, temperature)
    out = []
    for (ids, mask), own in zip(rows, found, strict=True):
        out.append(np.zeros(len(ids), np.float32))
        out[-1][mask] = own
    return out, Usage(reference_flops=usage.prefill_flops)
