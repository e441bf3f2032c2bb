"""How well scores agree with preferences: accuracy on pairs, calibration, AUC within prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from outdo.evaluation.stats import interval, wilson

_BINS = 10


def agreement(chosen: ArrayLike, rejected: ArrayLike, prompts: Sequence[str]) -> dict[str, Any]:
    """A record: {"metric": "pair_accuracy", "value", "ci95", "n", "auc", "auc_ci95", "prompts", "calibration_error", "brier"}.

    chosen, rejected: scores of the two answers of each pair. A tie counts as half. auc: the chance that a preferred answer of a
    prompt scores above a rejected one of the same prompt, mean over prompts. calibration_error: the mean gap between the sigmoid
    of the difference and the share of pairs in which the higher score was preferred, in ten bins of equal size. brier: the mean
    squared distance of that sigmoid from 1; scores that are all the same are calibrated and know nothing, and have 0.25.
    """
    a, b = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    right, n = float((a > b).sum() + 0.5 * (a == b).sum()), len(a)
    by_prompt: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for prompt, x, y in zip(prompts, a, b, strict=True):
        by_prompt[prompt].append((x, y))
    areas = [_area(np.array(pairs)) for pairs in by_prompt.values()]
    auc, low, high, _ = interval(areas)
    sure = 1.0 / (1.0 + np.exp(-np.abs(a - b)))  # of the higher score being the preferred one
    hit = np.where(a == b, 0.5, (a > b).astype(float))
    order = np.array_split(np.argsort(sure, kind="stable"), min(_BINS, n))
    gap = sum(len(part) * abs(sure[part].mean() - hit[part].mean()) for part in order) / n
    return {"metric": "pair_accuracy", "value": right / n, "ci95": wilson(right, n), "n": n, "auc": auc,
            "auc_ci95": (low, high), "prompts": len(areas), "calibration_error": float(gap),
            "brier": float(((1.0 - 1.0 / (1.0 + np.exp(b - a))) ** 2).mean())}


def _area(pairs: np.ndarray) -> float:
    """Of one prompt: every chosen answer against every rejected one; ties count half."""
    x, y = pairs[:, 0][:, None], pairs[:, 1][None]
    return float(((x > y) + 0.5 * (x == y)).mean())
