"""How many times imitation's budget RL needs for the same score. Needs: RL and more imitation from one start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from outdo.compare import cost
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict, make, score

PLACE = 70  # in the report


def claim(e: Evidence) -> Iterator[Verdict]:
    """RL / SFT to the same score. Never a number where a curve did not get there."""
    if not e.rl or not e.more_imitation or e.final(e.rl, "sampled") is None or e.final(e.more_imitation, "sampled") is None:
        return
    seeds = range(len(e.folders))
    evidence: dict[str, Any] = {}
    said = []
    for axis in cost.AXES:
        r = cost.ratio([e.curve(e.more_imitation, "sampled", s) for s in seeds],
                       [e.curve(e.rl, "sampled", s) for s in seeds], axis)
        evidence[axis] = {"score": r.score, "imitation": r.base_budget, "reinforcement": r.other_budget, "ratio": r.value,
                          "ci95": list(r.ci95) if r.ci95 else None, "reached_share": r.reached}
        said.append(_ratio_text(e, axis, r))
    back = cost.ratio([e.curve(e.rl, "sampled", s) for s in seeds],
                      [e.curve(e.more_imitation, "sampled", s) for s in seeds], "flops")
    evidence["reverse"] = {"score": back.score, "reinforcement": back.base_budget, "imitation": back.other_budget}
    if back.other_budget is None:
        said.append(f"{e.more_imitation} never reached {e.rl}'s best ({score(e, back.score)}) within the same budget, so the "
                    "ratio in that direction has no upper end.")
    numbers = [evidence[a]["ratio"] for a in cost.AXES]
    yield make("cost_ratio", "Reinforcement costs a multiple of imitation for the same score",
               "not measurable here" if None in numbers else "supported" if min(numbers) > 1 else "contradicted",
               " ".join(said), **evidence)


def _ratio_text(e: Evidence, axis: str, r: cost.Ratio) -> str:
    unit: Callable[[float], str] = (lambda x: f"{x:.2g} FLOPs") if axis == "flops" else (lambda x: f"{x:.0f} s")
    goal = f"{e.more_imitation}'s best sampled score, {score(e, r.score)}"
    if not r.base_budget:
        return f"In {axis}: {goal}, was its starting point, so there is nothing to divide by."
    if r.other_budget is None:
        return f"In {axis}: {e.rl} never reached {goal}; the ratio is censored."
    if r.value == 0.0:
        return f"In {axis}: {e.rl} started above {goal}."
    interval = f" [{r.ci95[0]:.2g}, {r.ci95[1]:.2g}]" if r.ci95 else " (interval not identified)"
    return (f"In {axis}: {goal}, took {unit(r.base_budget)} by imitation and {unit(r.other_budget or 0)} by reinforcement past "
            f"the shared start: a ratio of {r.value:.2g}{interval}.")
