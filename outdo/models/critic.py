"""A critic: one number per hidden state, the score that the episode is expected to end with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """A linear reading of the decoder's last hidden states. It begins at zero and lives beside the model, not in it."""

    def __init__(self, width: int, bias: bool = True) -> None:
        """bias: False keeps it at 0, for reward models: transformers' classes have none."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()), requires_grad=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] from `Decoder.hidden` -> float32 values [...], in units of the score."""
        return hidden.float() @ self.weight + self.bias
