"""The judge's side of the gap: can the model tell a won game from one that is not, whether or not it can win?

Two-alternative forced choice: of two games of the same length, one has just been won. The model is shown both up to that
move, and whichever it expects more to be followed by the result "won" is its answer. Half right is guessing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from outdo.evaluation.stats import wilson
from outdo.models.base import LanguageModel
from outdo.types import IntArray


@torch.inference_mode()
def recognises_wins(model: LanguageModel, dtype: torch.dtype, pairs: Sequence[tuple[IntArray, IntArray]],
                    win_id: int) -> dict[str, object]:
    """{"value": share of pairs told apart (a tie is half), "ci95", "n"}. pairs: (won, not won) prefixes of equal length."""
    packed = model.pack(dtype)
    right = 0.0
    by_length: dict[int, list[tuple[IntArray, IntArray]]] = {}
    for pair in pairs:
        by_length.setdefault(len(pair[0]), []).append(pair)
    for same in by_length.values():
        tokens = torch.from_numpy(np.stack([p[side] for p in same for side in (0, 1)]))
        last = torch.arange(1, len(tokens) + 1) * tokens.shape[1] - 1
        logits = model.logits(packed, model.hidden(packed, tokens, wanted_N=last))
        belief = torch.log_softmax(logits, dim=-1)[:, win_id].view(-1, 2)
        right += float((belief[:, 0] > belief[:, 1]).sum()) + 0.5 * float((belief[:, 0] == belief[:, 1]).sum())
    n = len(pairs)
    return {"value": right / n if n else None, "ci95": list(wilson(right, n)), "n": n}
