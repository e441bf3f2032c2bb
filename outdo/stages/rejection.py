"""rejection: try, keep what won, imitate it, repeat (RAFT, 2304.06767; expert iteration, Anthony et al., 1705.08439)."""

from __future__ import annotations

import numpy as np

from outdo.recipe import Rejection
from outdo.stages.loop import Loop
from outdo.stages.rl import describe, gather, learn
from outdo.types import Sample, Usage


def reject(loop: Loop) -> None:
    """Rollouts -> scores -> keep the winners -> cross-entropy on them, until the budget is spent."""
    config = loop.config
    assert isinstance(config, Rejection)
    for step in loop.steps():
        groups, usage = gather(loop, step)
        pairs = [(t, s.value) for g in groups for t, s in zip(g.trajectories, g.scores, strict=True)]
        won = [t for t, value in pairs if value is not None and value >= config.threshold]
        samples = [Sample(t.token_ids, t.mask, t.mask.astype(np.float32), t.logprobs) for t in won]
        dropped = sum(int(t.mask.sum()) for t, _ in pairs) - sum(int(t.mask.sum()) for t in won)
        usage += Usage(discarded_tokens=dropped)
        trained, spent = learn(loop, samples, step)
        loop.keep_rollouts("train", groups[:1])
        loop.book(usage + spent, {**describe(groups), **loop.judge.logged(), "kept": float(len(won)), **trained})
