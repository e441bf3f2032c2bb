"""Numbers as people read them. Whatever is not a finite number is a dash, never a zero."""

from __future__ import annotations

import math
from typing import Any

MISSING = "\u2013"  # an en dash
_NARROW = "\u202f"  # narrow no-break space: number and unit stay together
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: object) -> float | None:
    """A finite float, or None for everything else that a damaged or hostile file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        out = float(value)
    except OverflowError:
        return None
    return out if math.isfinite(out) else None


def pair(value: object) -> tuple[float, float] | None:
    """An interval [low, high], or None."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def key(value: object) -> str:
    """The exact number, for sorting by; empty if there is none."""
    x = number(value)
    return "" if x is None else repr(x)


def percent(value: object, digits: int = 1) -> str:
    """0.8125 -> 81.2 %"""
    x = number(value)
    return MISSING if x is None else f"{100 * x:.{digits}f}{_NARROW}%"


def percent_range(value: object) -> str:
    """[0.70, 0.89] -> 70.0–89.0 %"""
    p = pair(value)
    if p is None:
        return MISSING
    low, high = (round(100 * x, 1) + 0.0 for x in p)  # + 0.0: no "-0.0"
    return f"{low:.1f}\u2013{high:.1f}{_NARROW}%"


def plain(value: object, digits: int = 3) -> str:
    """Four or so significant digits: 0.5577 -> 0.558, 1234567 -> 1,234,567."""
    x = number(value)
    if x is None:
        return MISSING
    if x == int(x) and abs(x) < 1e9:
        return f"{int(x):,}"
    if abs(x) >= 1e5 or abs(x) < 1e-3:
        return power(x)
    return f"{x:,.{max(0, digits - 1 - math.floor(math.log10(abs(x))))}f}"


def plain_range(value: object) -> str:
    """[1.25, 3] -> 1.25–3"""
    p = pair(value)
    return MISSING if p is None else f"{plain(p[0])}\u2013{plain(p[1])}"


def count(value: object) -> str:
    """140032 -> 140,032"""
    x = number(value)
    return MISSING if x is None else f"{round(x):,}"


def power(value: object) -> str:
    """5.128e11 -> 5.13 × 10¹¹"""
    x = number(value)
    if x is None:
        return MISSING
    if x == 0:
        return "0"
    mantissa, _, exponent = f"{x:.2e}".partition("e")
    return f"{mantissa}{_NARROW}\u00d7{_NARROW}10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def seconds(value: object) -> str:
    """75.3 -> 1 min 15 s"""
    x = number(value)
    if x is None:
        return MISSING
    if x < 60:
        return f"{x:.1f}{_NARROW}s"
    minutes, rest = divmod(round(x), 60)
    if minutes < 60:
        return f"{minutes}{_NARROW}min {rest:02d}{_NARROW}s"
    return f"{minutes // 60}{_NARROW}h {minutes % 60:02d}{_NARROW}min"


def size(value: object) -> str:
    """1383866368 -> 1.38 GB"""
    x = number(value)
    if x is None:
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(x) < 1000:
            return f"{x:.3g}{_NARROW}{unit}"
        x /= 1000
    return f"{x:.3g}{_NARROW}TB"


def clean(value: Any) -> Any:
    """The same JSON value with NaN and infinities as null, and floats at six significant digits."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
