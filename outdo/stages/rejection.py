"""rejection: try, keep what won, imitate it, repeat (RAFT, 2304.06767; expert iteration, Anthony et al., 1705.08439)."""

from __future__ import annotations

import numpy as np

from outdo.recipe import Rejection
from outdo.stages.loop import Loop
from outdo.stages.rl import describe, gather, minibatches
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
        metrics = {**describe(groups), **loop.judge.logged(), "kept": float(len(won))}
        for number, minibatch in enumerate(minibatches(samples, config, loop.seed, step)):
            trained, spent = loop.train(minibatch)
            usage += spent
            metrics |= {k: v for k, v in trained.items() if k != "logprob_gap" or number == 0}
        loop.keep_rollouts("train", groups[:1])
        loop.book(usage, metrics)
