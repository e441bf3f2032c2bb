"""outdo turns any judge into a doer. See README.md for the tour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outdo.api.calls import evaluate, imitate, pretrain, reinforce
    from outdo.api.result import Result
    from outdo.api.watching import watch
    from outdo.audit.audit import audit_reward
    from outdo.audit.judge import audit_judge

__version__ = "0.1.0"
__all__ = ["Result", "audit_judge", "audit_reward", "evaluate", "imitate", "pretrain", "reinforce", "watch"]
_ELSEWHERE = {"Result": "api.result", "audit_reward": "audit.audit", "audit_judge": "audit.judge", "watch": "api.watching"}


def __getattr__(name: str) -> Any:
    """The Python API (docs/python.md) on first use: `import outdo` alone stays fast."""
    if name not in __all__:
        raise AttributeError(f"module 'outdo' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"outdo.{_ELSEWHERE.get(name, 'api.calls')}"), name)
