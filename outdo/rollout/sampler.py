"""From logits to tokens: one uniform number per row and the inverse of the cumulative distribution.

`torch.multinomial` over 64 x 49,152 entries took 16 times as long as this. Log-probabilities are those of the distribution
that was sampled, temperature included.
"""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 256  # tokens summed up together, where the vocabulary divides
_BELOW_ONE = 1.0 - 2.0**-24  # float32's last number before 1; its product with a positive x is always below x


def sample(logits_RV: Tensor, uniform_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row. logits float32, uniform float64 in [0, 1). Returns tokens [R] and their log-probs [R].

    temperature 0 is greedy: the argmax, with its log-probability at temperature 1.
    """
    scaled = logits_RV / temperature if temperature not in (0.0, 1.0) else logits_RV
    probabilities = torch.softmax(scaled, dim=-1)
    tokens = logits_RV.argmax(-1, keepdim=True) if temperature == 0.0 else _drawn(probabilities, uniform_R)
    return tokens.squeeze(1), probabilities.gather(1, tokens).log_().squeeze(1)


def _drawn(probabilities_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """[R, 1] by inverse of the cumulative distribution: first the block of tokens, then the token in it."""
    R, V = probabilities_RV.shape
    blocks = probabilities_RV.view(R, -1, gcd(V, _BLOCK))
    cdf = blocks.sum(-1).cumsum_(-1)
    # float32 rounds the largest uniform numbers up to 1, and 1 would draw the last token however impossible it is.
    target = uniform_R.to(cdf.dtype).clamp(max=_BELOW_ONE)[:, None] * cdf[:, -1:]
    block = torch.searchsorted(cdf, target, right=True)
    before = F.pad(cdf, (1, 0)).gather(1, block)
    inner = blocks[torch.arange(R, device=block.device), block.squeeze(1)].cumsum_(-1)
    target = torch.minimum(target - before, inner[:, -1:] * _BELOW_ONE)
    return block * blocks.shape[2] + torch.searchsorted(inner, target, right=True)
