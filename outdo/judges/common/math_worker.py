"""math-verify in a process of its own (see `outdo.judges.common.worker`)."""

from __future__ import annotations

from typing import Any

from math_verify import parse, verify

from outdo.judges.common.worker import serve


def compare(question: dict[str, Any]) -> dict[str, Any]:
    """{"golds": [texts], "said": text} -> {"gold": read or None, "said": read or None, "right"}."""
    golds = [g for text in question["golds"] if (g := parse(_marked(text), parsing_timeout=None))]
    said = parse(question["said"], parsing_timeout=None) if golds else []
    right = bool(said) and any(verify(gold, said, timeout_seconds=None) for gold in golds)
    return {"gold": str(golds[0][-1])[:60] if golds else None, "said": str(said[-1])[:60] if said else None, "right": right}


def _marked(gold: str) -> str:
    """Gold answers are bare LaTeX as often as they are marked."""
    return gold if "$" in gold or "\\boxed" in gold or "####" in gold else f"${gold}$"


if __name__ == "__main__":
    serve(compare)
