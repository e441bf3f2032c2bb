"""From logits to tokens: one uniform number per row and the inverse of the cumulative distribution.

`torch.multinomial` over 64 x 49,152 entries took 16 times as long as this. Log-probabilities are those of the distribution
that was sampled, temperature included.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BELOW_ONE = 1.0 - 2.0**-24  # float32's last number before 1; its product with a positive x is always below x


def sample(logits_RV: Tensor, uniform_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row. logits float32, uniform float64 in [0, 1). Returns tokens [R] and their log-probs [R].

    temperature 0 is greedy: the argmax, with its log-probability at temperature 1.
    """
    scaled = logits_RV / temperature if temperature not in (0.0, 1.0) else logits_RV
    logprobs = torch.log_softmax(scaled, dim=-1)
    if temperature == 0.0:
        tokens = logits_RV.argmax(-1)
    else:
        cdf = logprobs.exp().cumsum_(-1)
        # float32 rounds the largest uniform numbers up to 1, and 1 would draw the last token however impossible it is.
        target = uniform_R.to(cdf.dtype).clamp(max=_BELOW_ONE)[:, None] * cdf[:, -1:]
        tokens = torch.searchsorted(cdf, target, right=True).squeeze(1).clamp_(max=cdf.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)
