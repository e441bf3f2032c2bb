"""Ready-made reward functions under the names that TRL's users know, in TRL's signature: for `judge.functions`, or to copy.

    [judge]
    name = "function"
    functions = ["outdo.rewards:accuracy_reward", "outdo.rewards:think_format_reward"]
    weights = [1.0, 0.2]
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from outdo.errors import UserError

Said = str | Sequence[dict[str, Any]]  # a plain completion, or a conversational one
_THINK = re.compile(r"<think>(?:(?!<think>).)*?</think>(?:(?!<think>).)*", re.DOTALL)


def accuracy_reward(completions: Sequence[Said], solution: Sequence[str], **kwargs: Any) -> list[float | None]:
    """1.0 where the answer in LaTeX (boxed first) equals the solution, else 0.0; None where the solution is no maths.

    Equal as math_verify sees it. Unlike TRL's it also takes plain completions. Raises UserError without math_verify.
    """
    del kwargs
    try:
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import LatexExtractionConfig, parse, verify
    except ImportError:
        raise UserError("accuracy_reward takes the package math-verify; install it: pip install 'outdo[llm]'") from None
    for part in ("parser", "grader"):  # the judge limits the time of the whole call, so a warning that nothing does is noise
        logging.getLogger(f"math_verify.{part}").setLevel(logging.ERROR)
    latex = LatexExtractionConfig(normalization_config=NormalizationConfig(units=True), boxed_match_priority=0,
                                  try_extract_without_anchor=False)
    out: list[float | None] = []
    for said, right in zip(completions, solution, strict=True):
        gold = parse(right, parsing_timeout=None)
        answer = parse(_text(said), [latex], extraction_mode="first_match", parsing_timeout=None)
        out.append(float(verify(gold, answer, timeout_seconds=None)) if gold else None)
    return out


def think_format_reward(completions: Sequence[Said], **kwargs: Any) -> list[float]:
    """1.0 for a completion that begins with one <think>...</think> and goes on with anything but another <think>."""
    del kwargs
    return [float(_THINK.fullmatch(_text(said)) is not None) for said in completions]


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> Callable[..., list[float]]:
    """0 up to max - cache tokens, then falling linearly to -1 at max, and -1 beyond (DAPO, 2503.14476, eq. 13)."""
    free = max_completion_len - soft_punish_cache

    def soft_overlong_punishment(completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float]:
        del kwargs
        over = [max(0, len(ids) - free) for ids in completion_ids]
        return [-min(1.0, n / soft_punish_cache) if soft_punish_cache else -float(n > 0) for n in over]

    return soft_overlong_punishment


def get_repetition_penalty_reward(ngram_size: int = 3, max_penalty: float = -1.0) -> Callable[..., list[float]]:
    """max_penalty times the share of token n-grams that are repeats (2502.03373, appendix C.2); 0 for shorter completions."""
    if max_penalty > 0:
        raise ValueError(f"max_penalty {max_penalty} is positive; a penalty is 0 or less")

    def repetition_penalty(completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float]:
        del kwargs
        out = []
        for ids in completion_ids:
            ngrams = [tuple(ids[i : i + ngram_size]) for i in range(len(ids) - ngram_size + 1)]
            out.append(max_penalty * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0)
        return out

    return repetition_penalty


def environment_reward(environment_reward: Sequence[float | None], **kwargs: Any) -> list[float | None]:
    """What the environment's own get_reward() gave at the end of the episode (task dataset with an `environment`)."""
    del kwargs
    return list(environment_reward)


def per_group(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a function that takes lists: it is called for all samples of one prompt at a time, to compare them."""
    function.per_group = True  # type: ignore[attr-defined]
    return function


def _text(said: Said) -> str:
    """The words of a completion: as they are, or all its messages'."""
    return said if isinstance(said, str) else "\n".join(str(m.get("content") or "") for m in said)
