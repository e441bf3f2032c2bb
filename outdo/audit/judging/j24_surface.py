"""J24: what the score follows on the surface (length, lists, markup, hedges) within prompts, against shuffled scores. WARN at
most."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from outdo.audit.base import Finding, Verdict
from outdo.audit.judge import JudgeAudit, JudgeCheck

_MARKS: dict[str, Callable[[str], int]] = {
    "length": len,
    "lists": lambda t: len(re.findall(r"^\s*[-*\d]", t, re.MULTILINE)),
    "markup": lambda t: t.count("*") + t.count("#"),
    "hedges": lambda t: len(re.findall(r"\b(maybe|perhaps|might|could|I think)\b", t, re.IGNORECASE)),
}


class Surface(JudgeCheck):
    """Correlations within prompts, with rightness taken out."""

    id = "J24"
    title = "surface"
    fix = "See whether gold follows the same mark; if not, take it out of the score."
    planted = "likes_length"

    def run(self, audit: JudgeAudit) -> Finding:  # type: ignore[override]
        """WARN for marks beyond 99 % of shuffles and 0.2."""
        scores, right, prompts = audit.arrays()
        if len(scores) < 30:
            return self.finding(Verdict.NOT_EXERCISED, f"{len(scores)} answers have scores; 30 are needed")
        texts, found = [c.completion for c, _ in audit.scored], []
        rng = np.random.default_rng(audit.seed)
        y = _within(scores, prompts, right)
        for name, mark in _MARKS.items():
            x = _within(np.array([float(mark(t)) for t in texts]), prompts, right)
            if x.std() < 1e-9 or y.std() < 1e-9:
                continue
            r = float(np.corrcoef(x, y)[0, 1])
            floor = np.quantile([abs(np.corrcoef(x, rng.permutation(y))[0, 1]) for _ in range(300)], 0.99)
            if abs(r) > max(floor, 0.2):
                found.append(f"{name} {r:+.2f}")
        return self.finding(
            Verdict.WARN if found else Verdict.PASS,
            "the score follows " + ", ".join(found) if found else f"follows none of {', '.join(_MARKS)} within prompts",
            n=len(scores),
        )


def _within(x: np.ndarray, prompts: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Differences from the mean of the same prompt's answers of the same rightness."""
    key = prompts * 2 + right
    means = np.bincount(key, x) / np.maximum(1, np.bincount(key))
    return np.asarray(x - means[key])
