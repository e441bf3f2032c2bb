"""outdo turns any judge into a doer. See README.md for the tour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outdo.api.calls import evaluate, imitate, pretrain, reinforce
    from outdo.api.result import Result

__version__ = "0.1.0"
__all__ = ["Result", "evaluate", "imitate", "pretrain", "reinforce"]


def __getattr__(name: str) -> Any:
    """The Python API (docs/python.md) on first use: `import outdo` alone stays fast."""
    if name not in __all__:
        raise AttributeError(f"module 'outdo' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("outdo.api.result" if name == "Result" else "outdo.api.calls"), name)
