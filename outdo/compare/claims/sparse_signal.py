"""Bits that a score carries against tokens that imitation is told. Needs: an RL stage with scores between 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, make, percent

PLACE = 130  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """Bits per episode at most, and groups without any difference."""
    if not e.rl:
        return
    first = [m for seed in e.metrics(e.rl) for m in seed[:5]]
    last = [m for seed in e.metrics(e.rl) for m in seed[-5:]]
    if not first:
        return
    p, silent = (float(np.mean([m[k] for m in first])) for k in ("reward", "zero_variance_groups"))
    silent_end = float(np.mean([m["zero_variance_groups"] for m in last]))
    if not 0.0 <= p <= 1.0:
        return
    bits = 0.0 if p in (0.0, 1.0) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))
    tokens = float(np.mean([m["tokens_per_episode"] for m in first]))
    what = f"a game's result carries at most {bits:.2f} bits (training games won: {percent(p)})"
    if e.counted != "games":
        what = f"an answer's score carries at most {bits:.2f} bits (mean in training: {percent(p)})"
    text = (f"At the start of {e.rl} {what} for {tokens:.0f} sampled tokens, and {percent(silent)} of the groups taught nothing "
            f"because all in them ended alike ({percent(silent_end)} at the end). Imitation is told every one of those tokens.")
    yield make("sparse_signal", "Imitation's signal is dense, reinforcement's is sparse",
               "supported" if bits <= 1.0 < tokens else "contradicted", text, bits_per_episode=bits,
               tokens_per_episode=tokens, zero_variance_start=silent, zero_variance_end=silent_end)
