"""A plausible reward is gamed. Needs: an RL stage on a reward that is not the gold one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, percent, points, size
from outdo.evaluation.stats import paired_difference

PLACE = 90  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """Reward up, gold down?"""
    for name in e.proxies:
        before, after = e.first_rows(name, "sampled"), e.final_rows(name, "sampled")
        if after is None:
            continue
        r0, r1 = (float(np.mean([r["extra"]["reward"] for r in rows])) for rows in (before, after))
        d = paired_difference(np.array([r["items"] for r in after], float), np.array([r["items"] for r in before], float))
        reward = None  # runs of earlier versions kept no reward of single prompts
        if all("reward_items" in r for r in (*before, *after)):
            reward = paired_difference(np.array([r["reward_items"] for r in after], float),
                                       np.array([r["reward_items"] for r in before], float))
        rose = r1 > r0 if reward is None else reward.verdict == "higher"
        verdict = "not measurable here" if not rose else "supported" if d.verdict != "higher" else "contradicted"
        ends = {k: float(np.mean([r["extra"][k] or 0.0 for r in after])) for k in after[0]["extra"]
                if k in ("illegal", "stalemate", "material", "repetition", "move_limit")}
        most = max(ends, key=lambda k: ends[k]) if ends else ""
        text = (f"{name}: the reward goes from {r0:.3f} to {r1:.3f}, the true score changes by {points(e, d)} ({size(e, d)}). "
                + (f"Its games now end most often by {most.replace('_', ' ')} ({percent(ends[most])})." if ends else ""))
        yield make(f"proxy_{name}", "Reinforcement optimises exactly what is measured: a plausible reward is gamed", verdict,
                   text, reward_before=r0, reward_after=r1, gold=diff(d), endings=ends,
                   **({} if reward is None else {"reward": diff(reward)}))
