"""A reward that knows nothing teaches nothing. Needs: an RL stage on random_reward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from outdo.compare.deciding import CONTROL_MARGIN
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, diff, make, points, size
from outdo.evaluation.stats import paired_difference

PLACE = 80  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """A reward that knows nothing must teach nothing."""
    for name in e.controls:
        start = np.array([r["items"] for r in e.first_rows(name, "sampled")], float)
        end = e.final(name, "sampled")
        if end is None:
            continue
        d = paired_difference(end, start)
        verdict = "supported" if d.ci95[1] < CONTROL_MARGIN else "contradicted" if d.ci95[0] > 0 else "not distinguishable"
        text = (f"{name} (a coin flip as reward) ends {points(e, d)} from its start, sampled ({size(e, d)}). Supported means: "
                f"the interval stays below +{100 * CONTROL_MARGIN:.0f} points.")
        yield make(f"control_{name}", "The judge's signal does it, not the pipeline: a random reward teaches nothing",
                   verdict, text, difference=diff(d))
