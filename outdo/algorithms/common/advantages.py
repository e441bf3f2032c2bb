"""Scores of one group -> advantages. None in: not scored. None out for the whole group: it carries no signal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

Values = Sequence[float | None]
Advantages = list[float | None] | None

_SAME = 1e-8  # scores of a group closer together than this carry no signal


def centred(values: Values) -> Advantages:
    """R - mean(R) over the scored members of a group; None if fewer than two are scored or all scores are equal."""
    scored = [v for v in values if v is not None]
    if len(scored) < 2 or max(scored) - min(scored) < _SAME:
        return None
    mean = fmean(scored)
    return [None if v is None else v - mean for v in values]


def standardised(values: Values) -> Advantages:
    """(R - mean(R)) / std(R), with the standard deviation of the group itself (n, not n - 1)."""
    std = pstdev([v for v in values if v is not None] or [0.0])
    return _scaled(centred(values), std)


def left_out(values: Values) -> Advantages:
    """R_i - mean_{j != i} R_j: each score against the mean of the others."""
    scored = sum(v is not None for v in values)
    means = centred(values)
    if means is None:
        return None
    return [None if a is None else a * scored / (scored - 1) for a in means]


def _scaled(advantages: Advantages, by: float) -> Advantages:
    return None if advantages is None else [None if a is None else a / by for a in advantages]


def over_mean(values: Values) -> Advantages:
    """(R - mean(R)) / mean(R); None for a group whose mean is not positive."""
    mean = fmean([v for v in values if v is not None] or [0.0])
    return _scaled(centred(values), mean) if mean > 0.0 else None
