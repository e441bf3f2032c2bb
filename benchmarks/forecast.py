"""How good forecasts are: synthetic curves of seven kinds, forecast from their first half.

Run: python benchmarks/forecast.py [--curves 200] [--seed 0]   (about a minute on one core)
"""

from __future__ import annotations

import argparse

import numpy as np

from outdo.evaluation.stats import wilson
from outdo.forecast.bands import ceiling
from outdo.forecast.curve import Curve, Floats, coarse
from outdo.forecast.events import Events, count
from outdo.forecast.forecast import forecast
from outdo.forecast.skill import Record, skill

KINDS = ("saturating", "sigmoid", "power", "linear", "collapsing", "jumping", "ar1")


def synthetic(kind: str, rng: np.random.Generator) -> tuple[Curve, float]:
    """A curve of 12 to 80 points with a score in [0, 1], and its ceiling. Noise of 0.01 to 0.05 a point, half AR(1) of 0.5.

    saturating, sigmoid, power, linear: an increasing score. collapsing, jumping: one of these that, at a time drawn evenly from
    the whole run, loses 30 to 100 % of what it had gained, or gains 0.1 to 0.4. ar1: a level with AR(1) noise of 0.8.
    """
    n = int(rng.integers(12, 81))
    u = np.arange(1, n + 1) / n
    start, gain = rng.uniform(0.02, 0.3), rng.uniform(0.1, 0.6)
    base = kind if kind in KINDS[:4] else str(rng.choice(KINDS[:4])) if kind != "ar1" else "level"
    y = start + gain * _shape(base, u, rng)
    if kind in ("collapsing", "jumping"):
        late = 1 / (1 + np.exp(-(u - rng.uniform(0.05, 1.0)) / 0.01))
        y = y - late * rng.uniform(0.3, 1.0) * (y - start) if kind == "collapsing" else y + late * rng.uniform(0.1, 0.4)
    noise = rng.uniform(0.01, 0.05)
    correlated = 0.8 if kind == "ar1" else float(rng.choice([0.0, 0.5]))
    e = rng.normal(0, noise, n)
    for i in range(1, n):
        e[i] = correlated * e[i - 1] + np.sqrt(1 - correlated**2) * e[i]
    return Curve(u, np.clip(y + e, 0, 1), np.zeros(n), 0.0, 1.0), start + gain


def halved(curve: Curve, events: Events) -> Record:
    """The forecast from the first half with what is seen at the end, as `outdo forecasts --half` does it."""
    whole, seen = coarse(curve), curve.until(curve.compute[-1] / 2)
    return {**forecast(seen, float(whole.compute[-1]), events=events).record(), "truth": float(whole.score[-1])}


def measure(curves: int, seed: int) -> dict[str, list[list[Record]]]:
    """Records of each kind; every curve is a stage of its own."""
    other, rng = np.random.default_rng(seed + 1000), np.random.default_rng(seed)
    events = count(synthetic(KINDS[i % len(KINDS)], other)[0] for i in range(1400))
    print(f"late collapses and jumps, counted on other curves: {events}")
    found: dict[str, list[list[Record]]] = {kind: [] for kind in KINDS}
    for i in range(curves):
        kind = KINDS[i % len(KINDS)]
        found[kind].append([halved(synthetic(kind, rng)[0], events)])
    return found


def ceilings(curves: int, seed: int) -> tuple[int, int]:
    """Whole sigmoid and saturating curves whose ceiling was shown, and how many of these intervals held the true one."""
    rng, shown, right = np.random.default_rng(seed), 0, 0
    for i in range(curves):
        curve, truth = synthetic(("saturating", "sigmoid")[i % 2], rng)
        if (found := ceiling(coarse(curve))) is not None:
            shown, right = shown + 1, right + (found[1] <= truth <= found[2])
    return shown, right


def main() -> None:
    """Skill and coverage of each kind and of all."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--curves", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    found = measure(chosen.curves, chosen.seed)
    for kind, records in [*found.items(), ("all", [r for rs in found.values() for r in rs])]:
        s = skill(records)
        (c95, low, high), (c80, _, _) = s.coverage["95"], s.coverage["80"]
        width = np.mean([r["ci95"][1] - r["ci95"][0] for (r,) in records])
        print(f"{kind:11} n {s.stages:4}  RMSE {s.rmse:.3f}, last value {s.rmse_last:.3f}, skill {s.skill[0]:+.2f} "
              f"[{s.skill[1]:+.2f}, {s.skill[2]:+.2f}]  95 % band {c95:.3f} [{low:.3f}, {high:.3f}], width {width:.2f}; "
              f"80 % band {c80:.3f}")
    shown, right = ceilings(chosen.curves, chosen.seed)
    low, high = wilson(right, shown)
    print(f"ceiling shown for {shown} of {chosen.curves} whole sigmoid and saturating curves; its interval held the true one in "
          f"{right / shown:.3f} [{low:.3f}, {high:.3f}]")


def _shape(kind: str, u: Floats, rng: np.random.Generator) -> Floats:
    if kind == "saturating":
        return 1 - np.exp(-u / rng.uniform(0.05, 0.6))
    if kind == "sigmoid":
        return np.asarray(1 / (1 + (rng.uniform(0.1, 1.0) / u) ** rng.uniform(1.0, 4.0)))
    if kind == "power":
        return np.asarray(1 - (1 + u / rng.uniform(0.02, 0.3)) ** -rng.uniform(0.3, 1.0))
    return u * (kind == "linear")


if __name__ == "__main__":
    main()
