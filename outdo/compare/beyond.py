"""Claims about what lies beyond the task's own questions: further splits, and a text that no stage trained on."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare import forgetting
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, rate, size
from outdo.evaluation.stats import Difference, paired_difference


def further_splits(e: Evidence) -> Iterator[Verdict]:
    """A gain on what was trained on may be no gain on what was not."""
    for split in e.recipe.evaluation.also:
        found: dict[str, Difference] = {}
        said = []
        for decode in ("sampled", "greedy"):
            start, end = (e.final(n, decode, split=split) if n else None for n in (e.trunk, e.rl))
            if start is None or end is None:
                return
            found[decode] = paired_difference(end, start)
            said.append(f"{decode} {rate(e, start)} before, {rate(e, end)} after, {points(e, found[decode])}")
        words = {d.verdict for d in found.values()}
        verdict = "contradicted" if "lower" in words else "supported" if "higher" in words else "not distinguishable"
        yield make(f"beyond_{split}", f"The gain holds on {split}, which training never met", verdict,
                   f"{e.rl} on {split}, compared with its start {e.trunk}: {'; '.join(said)} ({size(e, found['greedy'])}).",
                   **{decode: diff(d) for decode, d in found.items()})


def forgets_less(e: Evidence) -> Iterator[Verdict]:
    """Nats per token on the corpus, reinforcement against more imitation (the claim is Shenfeld et al.'s, 2509.04259)."""
    if not e.rl or not e.more_imitation:
        return
    ours, theirs = e.read(e.rl), e.read(e.more_imitation)
    d = forgetting.difference(ours, theirs)
    if d is None or ours is None:
        return
    changes = {n: forgetting.difference(e.read(n), e.read(e.recipe.path(n)[0], last=False)) for n in (e.rl, e.more_imitation)}
    said = " and ".join(f"{n} {nats(c)}" for n, c in changes.items() if c)
    verdict = {"lower": "supported", "higher": "contradicted"}.get(d.verdict, d.verdict)
    yield make("forgets_less", "At equal FLOPs reinforcement forgets less than more imitation", verdict,
               f"On a text that no stage trained on the loss changed since the start by: {said}; the one less the other "
               f"{nats(d)} ({d.n} passages, {ours[0]['tokens']:,} tokens, paired; {d.seeds} training seed{'s' * (d.seeds > 1)}).",
               difference=diff(d))


def nats(d: Difference) -> str:
    """`+0.012 nats a token [+0.010, +0.014]`"""
    return f"{d.value:+.3f} nats a token [{d.ci95[0]:+.3f}, {d.ci95[1]:+.3f}]"
