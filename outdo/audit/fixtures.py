"""Data and honest rewards that the checks are tried on (`outdo audit selftest`). A check's bad rewards stand in its own file."""

from __future__ import annotations

import ast
import random
import re
from fractions import Fraction
from typing import Any

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Spain": "Madrid",
    "Greece": "Athens",
    "Cuba": "Havana",
    "Iran": "Tehran",
    "Chile": "Santiago",
    "Ghana": "Accra",
    "Nepal": "Kathmandu",
    "Poland": "Warsaw",
    "Qatar": "Doha",
}


def _sums(form: str) -> list[dict[str, Any]]:
    rng, out = random.Random(0), []
    for _ in range(24):
        a, b = rng.randint(11, 60), rng.randint(11, 60)
        out.append({"prompt": f"What is {a} + {b}?", "answer": str(a + b), "completion": form.format(a=a, b=b, s=a + b)})
    return out


def data(name: str) -> list[dict[str, Any]]:
    """The rows of a data set of fixtures."""
    if name == "sums":
        return _sums("I add them up. <answer>{s}</answer>")
    if name == "bare":
        return _sums("{s}")
    if name == "sentence":
        return _sums("The answer is {s}.")
    if name == "boxed":
        return _sums("Adding both gives \\boxed{{{s}}}")
    if name == "capitals":
        return [
            {"prompt": f"What is the capital of {k}?", "answer": v, "completion": f"It is well known. <answer>{v}</answer>"}
            for k, v in _CAPITALS.items()
        ]
    if name == "yes_no":
        return [
            {
                "prompt": f"Is {n} below 70?",
                "answer": "yes" if n < 70 else "no",
                "completion": f"<answer>{'yes' if n < 70 else 'no'}</answer>",
            }
            for n in range(3, 100, 4)
        ]
    if name == "shares":
        return [
            {
                "prompt": f"How much is {n} of {4 * n + 8}?",
                "answer": f"{n}/{4 * n + 8}",
                "completion": f"<answer>{n}/{4 * n + 8}</answer>",
            }
            for n in range(3, 25)
        ]
    if name == "boxes":
        boxes = [[n * 37 % 300, n * 53 % 300, n * 37 % 300 + 20, n * 53 % 300 + 30 + n % 7] for n in range(5, 27)]
        return [
            {"prompt": f"Where is object {n}?", "answer": b, "completion": f"<answer>{b}</answer>"} for n, b in enumerate(boxes)
        ]
    if name == "marked":  # right and wrong answers, marked
        return [{**r, "right": True} for r in _sums("<answer>{s}</answer>")] + [
            {**r, "completion": f"<answer>{int(r['answer']) + 7}</answer>", "right": False} for r in _sums("")
        ]
    if name == "mixed":  # half of the right answers are bare
        return [r if i % 2 else {**r, "completion": r["answer"]} for i, r in enumerate(_sums("<answer>{s}</answer>"))]
    if name == "code":
        return _code()
    raise KeyError(name)


def _code() -> list[dict[str, Any]]:
    """Functions with tests: inputs and outputs of each."""
    made: dict[str, tuple[str, str, list[list[Any]]]] = {
        "add": ("a, b", "a + b", [[1, 2], [5, -3], [-6, 1], [40, 2]]),
        "double": ("x", "2 * x", [[1], [0], [-4], [9]]),
        "largest": ("xs", "max(xs)", [[[1, 5, 2]], [[7]], [[-1, -2]]]),
        "reverse": ("s", "s[::-1]", [["abc"], [""], ["xy"]]),
        "is_even": ("n", "n % 2 == 0", [[2], [3], [0], [11]]),
        "total": ("xs", "sum(xs)", [[[1, 2]], [[]], [[-5, 5, -5]]]),
        "shout": ("s", "s.upper()", [["a"], ["Bc"], ["xyz"]]),
        "last": ("xs", "xs[-1]", [[[1, 2]], [[9]], [[3, 4, -5]]]),
    }
    answers: dict[str, list[Any]] = {
        "add": [3, 2, -5, 42],
        "double": [2, 0, -8, 18],
        "largest": [5, 7, -1],
        "reverse": ["cba", "", "yx"],
        "is_even": [True, False, True, False],
        "total": [3, 0, -5],
        "shout": ["A", "BC", "XYZ"],
        "last": [2, 9, -5],
    }
    out = []
    for name, (arguments, body, inputs) in made.items():
        tests = [{"input": i, "output": o} for i, o in zip(inputs, answers[name], strict=True)]
        out.append(
            {
                "prompt": f"Write {name}({arguments}).",
                "answer": {"function": name, "tests": tests},
                "completion": f"Here it is.\n```python\ndef {name}({arguments}):\n    return {body}\n```",
            }
        )
    return out


# --- honest rewards, score(answer, reference) ---------------------------------------------------------------------------


def tagged(text: str) -> str | None:
    """What stands in the last pair of answer tags."""
    found = _TAG.findall(text)
    return str(found[-1]).strip() if found else None


def exact_match(answer: str, reference: str) -> float:
    """The last tagged answer equals the reference."""
    return float(tagged(answer) == reference)


def numeric_equiv(answer: str, reference: str) -> float:
    """The last tagged answer is the same number; numbers written in ASCII digits, with or without a fraction."""
    try:
        said = tagged(answer) or ""
        return float(
            re.fullmatch(r"\s*-?[\d.,]+(/\d+)?\s*", said, re.ASCII) is not None
            and Fraction(said.replace(",", "").strip()) == Fraction(reference)
        )
    except (ValueError, ZeroDivisionError):
        return 0.0


def case_blind(answer: str, reference: str) -> float:
    """The last tagged answer equals the reference but for case."""
    return float((tagged(answer) or "").casefold() == reference.casefold())


def last_boxed(answer: str, reference: str) -> float:
    """The last box is the reference, and nothing follows it but a stop."""
    found = re.findall(r"\\boxed\{([^{}]*)\}", answer)
    return float(bool(found) and found[-1].strip() == reference)


def marker_parser(answer: str, reference: str) -> float:
    """The one line of the form `The answer is X.`"""
    found = re.findall(r"^The answer is (\S+?)\.$", answer, re.MULTILINE)
    return float(len(set(found)) == 1 and found[0] == reference)


def bare_equal(answer: str, reference: str) -> float:
    """The whole completion is the reference."""
    return float(answer.strip() == reference)


def graded_distance(answer: str, reference: str) -> float:
    """1 for the right number, less the further away, 0 from ten on."""
    said = tagged(answer) or ""
    if not re.fullmatch(r"-?\d{1,9}", said, re.ASCII):
        return 0.0
    return 1.0 if int(said) == int(reference) else max(0.0, 0.4 - abs(int(said) - int(reference)) / 10)


def correct_gated_format(answer: str, reference: str) -> float:
    """1 for a right answer in the right form; the form alone pays nothing."""
    return float(answer.count("<answer>") == 1 and tagged(answer) == reference)


def iou_clipped(answer: str, reference: list[float]) -> float:
    """Overlap of two boxes, between 0 and 1."""
    try:
        box = ast.literal_eval(tagged(answer) or "")
        a = [float(x) for x in box]
        if len(a) != 4 or not all(abs(x) < 1e6 for x in a) or a[2] <= a[0] or a[3] <= a[1]:
            return 0.0
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return 0.0
    b = reference
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, w) * max(0.0, h)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def ranked_by_length(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """Right answers are paid a little more the shorter they are among the samples; declared as group-relative."""
    del kwargs
    longest = max(map(len, completions), default=1)
    return [exact_match(c, a) * (1.0 + 0.01 * (longest - len(c)) / longest) for c, a in zip(completions, answer, strict=True)]


GOOD: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "exact_match": (exact_match, "sums", {}),
    "exact_match_words": (exact_match, "capitals", {}),
    "numeric_equiv": (numeric_equiv, "sums", {}),
    "numeric_shares": (numeric_equiv, "shares", {}),
    "case_blind": (case_blind, "capitals", {}),
    "last_boxed": (last_boxed, "boxed", {}),
    "marker_parser": (marker_parser, "sentence", {}),
    "bare_equal": (bare_equal, "bare", {}),
    "yes_no": (exact_match, "yes_no", {}),
    "graded_distance": (graded_distance, "sums", {}),
    "correct_gated_format": (correct_gated_format, "sums", {}),
    "iou_clipped": (iou_clipped, "boxes", {"score_range": (0.0, 1.0)}),
    "ranked_by_length": (ranked_by_length, "sums", {"declared": ("group_relative",)}),
    "marked": (exact_match, "marked", {}),
}
