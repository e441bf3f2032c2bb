"""What carries over to harder prompts. Needs: evaluation.also."""

from __future__ import annotations

from collections.abc import Iterator

from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, rate, size
from outdo.evaluation.stats import Difference, paired_difference

PLACE = 110  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
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
