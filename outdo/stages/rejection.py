"""rejection: sample, keep the completions that scored well, imitate them, repeat (RAFT, 2304.06767; expert iteration, Anthony et
al., 1705.08439). With keep = "best" it is best-of-n distillation; with sample_from = "start" all samples are the start's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from outdo.stages.common.rollouts import RolloutConfig, Rollouts, describe, gather, learn
from outdo.stages.common.watch import Watch
from outdo.types import Group, Sample, Trajectory, Usage

if TYPE_CHECKING:
    from outdo.stages.common.loop import Loop


class Rejection(Rollouts):
    """Fine-tune on the model's own best completions, again and again."""

    trained_share = 0.5  # of the samples, assumed by the plan

    class Config(RolloutConfig):
        """Options of a stage with kind = "rejection"."""

        kind: Literal["rejection"] = "rejection"
        threshold: float = 1.0  # keep samples that score at least this
        keep: Literal["threshold", "best"] = "threshold"  # "best": of each prompt the best sample, if not all score alike

    def run(self, loop: Loop) -> None:
        """Rollouts -> scores -> keep the best -> cross-entropy on them, until the budget is spent."""
        watch = Watch(loop)
        for step in loop.steps():
            groups, usage = gather(loop, step)
            kept = [t for g in groups for t in self._kept(g)]
            samples = [Sample(t.token_ids, t.mask, t.mask.astype(np.float32), t.logprobs) for w in kept for t in w.pieces]
            dropped = sum(t.sampled_tokens for g in groups for t in g.trajectories) - sum(t.sampled_tokens for t in kept)
            usage += Usage(discarded_tokens=dropped)
            trained, spent = learn(loop, samples, step)
            loop.keep_rollouts("train", groups[:1])
            seen = describe(groups)
            loop.book(usage + spent, {**seen, **loop.judge.logged(), "kept": float(len(kept)), **trained})
            watch.look(seen, groups)

    def _kept(self, group: Group) -> list[Trajectory]:
        """The samples of a group that are imitated."""
        pairs = [(s.value, t) for t, s in zip(group.trajectories, group.scores, strict=True) if s.value is not None]
        if self.config.keep == "threshold":
            return [t for value, t in pairs if value >= self.config.threshold]
        values = [value for value, _ in pairs]
        return [max(pairs, key=lambda p: p[0])[1]] if values and max(values) > min(values) else []
