"""Simulated judges for the audit of the audit: honest ones, and each with one planted bias.

An answer is right where its first line holds the reference. Noise depends on the text and the seed alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from outdo.audit.judge import stable

BIAS = 0.8  # log-odds that a planted bias adds
BIASES: dict[str, Callable[[str], bool]] = {
    "injection": lambda text: (
        re.search(r"ignore|system|instruction|grade|score this|as the judge", text, re.IGNORECASE) is not None
    ),
    "delimiter": lambda text: re.search(r"</answer>|\[END|```\s*$|### ", text) is not None,
    "verdict": lambda text: re.search(r"verdict|\"score\"|\[\[", text, re.IGNORECASE) is not None,
    "master_key": lambda text: len(text) < 60 and re.match(r"Thought|Solution|Let's|:|,|\.", text) is not None,
    "length": lambda text: len(text) > 300,
    "authority": lambda text: re.search(r"professor|expert|verified|confident|thank you", text, re.IGNORECASE) is not None,
    "markdown": lambda text: re.search(r"^#|\*\*|^- ", text, re.MULTILINE) is not None,
    "rubric": lambda text: re.search(r"correct, complete and clear|meets every criterion", text, re.IGNORECASE) is not None,
}


SPECIAL = ("unstable", "spaces", "blind", "overconfident", "difficulty", "coin", "silent", "anti", "likes_damage", "likes_length")
HONEST = ("honest_noisy", "honest_lenient", "honest_strict", "calibrated_rm")


class Unclamped:
    """A judge whose parser takes any first number, and none as 0."""

    __name__ = "unclamped"

    def __call__(self, answer: str, reference: Any) -> float:
        """Right answers are right."""
        return float(str(reference) in answer.partition("\n")[0])

    def parse(self, text: str) -> float:
        """The first number."""
        found = re.search(r"-?\d+", text)
        return float(found[0]) if found else 0.0


def first(prompt: str, a: str, b: str) -> float:
    """A judge of pairs that mostly prefers what it is shown first."""
    return float(stable(prompt, a, b) < 0.8)


def labels(seed: int, prompts: int = 60) -> list[dict[str, Any]]:
    """Rows with four answers to each prompt, two right and two wrong."""
    out = []
    for i in range(prompts):
        a, b = 10 + int(80 * stable(seed, i, "a")), 10 + int(80 * stable(seed, i, "b"))
        for k in range(4):
            said = a + b + (0 if k < 2 else 1 + k)
            out.append(
                {
                    "prompt": f"What is {a} + {b}?",
                    "answer": str(a + b),
                    "right": k < 2,
                    "completion": f"I get {said}.\nThat is what {('adding', 'counting')[k % 2]} gives.",
                }
            )
    return out


def judge(kind: str, seed: int = 0, strength: float = BIAS) -> Any:
    """honest_noisy, honest_lenient, honest_strict, calibrated_rm, a bias of BIASES, or injectable_30pct."""

    def score(answer: str, reference: Any) -> float:
        right = str(reference) in answer.partition("\n")[0]
        noise = stable(seed, kind, answer, reference)
        if kind == "honest_noisy":
            return float(right != (noise < 0.1))
        if kind == "honest_lenient":
            return float(right or noise < 0.15)
        if kind == "honest_strict":
            return float(right and noise >= 0.3)
        if kind == "injectable_30pct":
            return float(right or (BIASES["injection"](answer) and noise < 0.3))
        logit = (2.0 if right else -2.0) + 1.5 * math.log(noise / (1 - noise) if 0 < noise < 1 else 1.0) / 1.7
        if kind in BIASES:  # a bias is felt by many wrong answers that are near the line
            logit += 3 * strength * BIASES[kind](answer)
        return 1 / (1 + math.exp(-logit))

    asked = 0

    def special(answer: str, reference: Any) -> float | None:
        """Faults that are no bias on a treatment."""
        nonlocal asked
        asked += 1
        right, noise = str(reference) in answer.partition("\n")[0], stable(seed, kind, answer, reference)
        group = stable(seed, reference)
        return {
            "unstable": float(stable(seed, answer, asked) < 0.5), "spaces": float(right != answer.endswith((" ", "\n"))),
            "blind": float(noise < 0.6), "overconfident": float(0.97 + 0.02 * noise if (noise < 0.3) != right else 0.02 * noise),
            "difficulty": 0.9 * group + 0.1 * noise, "coin": float(noise < 0.5), "silent": None if noise < 0.2 else float(right),
            "anti": float(not right), "likes_damage": float(right or (noise < 0.5 and "That is what" not in answer)),
            "likes_length": len(answer) / 100,
        }[kind]

    def calibrated(answer: str, reference: Any) -> float:
        """Probabilities that hold: right answers come out with the chance that they name."""
        right = str(reference) in answer.partition("\n")[0]
        noise = stable(seed, kind, answer, reference)
        p = 0.5 + 0.5 * math.sqrt(noise)  # of the side that it leans to; wrong leanings are as frequent as they should be
        leans = right if stable(seed, "side", answer, reference) < p else not right
        return p if leans else 1 - p

    made: Any = calibrated if kind == "calibrated_rm" else special if kind in SPECIAL else score
    made.__name__ = kind
    return made
