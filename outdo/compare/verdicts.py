"""Claims about imitation and reinforcement, held against what the runs measured.

A claim is one file in `claims/` with a function `claim(evidence)` that yields verdicts, and its PLACE in the report; files are
found by listing the folder. A verdict is {"id", "claim", "verdict", "text", "evidence"}; verdict is one of supported,
contradicted, not distinguishable, not measurable here. Every interval is 95 % and two-sided; comparisons are paired by prompt,
and seeds are resampled where there are several. One training seed says nothing about other seeds, and the text says so.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from outdo.compare import claims
from outdo.compare.evidence import Evidence
from outdo.compare.words import Verdict
from outdo.recipe import Recipe

Claim = Callable[[Evidence], Iterator[Verdict]]


def verdicts(folders: Path | Sequence[Path], recipe: Recipe) -> list[Verdict]:
    """All claims that these runs can speak to. folders: one per seed, all of the same recipe."""
    evidence = Evidence([folders] if isinstance(folders, Path) else list(folders), recipe)
    return [verdict for claim in all_claims() for verdict in claim(evidence)]


def all_claims() -> list[Claim]:
    """The claims in the order of the report."""
    names = [m.name for m in pkgutil.iter_modules(claims.__path__)]
    modules = [importlib.import_module(f"{claims.__name__}.{name}") for name in names]
    return [m.claim for m in sorted(modules, key=lambda m: int(m.PLACE))]
