"""Relative paths in a recipe made absolute, so that a run can be resumed from another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STAGE = "stage:"  # before a stage's name, where an option may also name a checkpoint elsewhere
_PATHS = ("data", "eval_data", "model", "models", "functions")  # options of plug-ins that may name a file or a folder


def make_absolute(data: dict[str, Any], base: Path) -> None:
    """What lies on this disk by its whole path, so that a run can be resumed from another folder."""
    stages = data.get("stage")
    stages = stages if isinstance(stages, dict) else {}
    for table in [data, *stages.values(), data.get("model"), data.get("evaluation")]:
        for key, value in table.items() if isinstance(table, dict) else ():
            if key in ("from", "tokenizer", "teacher", "data", "heldout_data", "corpus"):
                table[key] = value if value in stages else _absolute(value, base)
            elif key in ("task", "judge", "gold", "algorithm", "rollout"):
                table[key] = _absolute_inside(value, base)


def _absolute_inside(value: Any, base: Path, key: str = "") -> Any:
    """A plug-in's table with `my_file.py:name` wherever it stands, and what the keys below hold, by whole paths."""
    if isinstance(value, dict):
        return {k: _absolute_inside(v, base, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_absolute_inside(v, base, key) for v in value]
    if isinstance(value, str) and ".py:" in value:
        file, _, name = value.rpartition(":")
        return f"{_absolute(file, base)}:{name}"
    return _absolute(value, base) if key in _PATHS else value


def _absolute(value: Any, base: Path) -> Any:
    """The whole path of what exists, seen from the current folder or from the recipe's; `RUN:stage` and `data:split` as well."""
    if not isinstance(value, str) or not value or value.startswith(STAGE):
        return value
    for folder in (Path(), base):
        if (folder / value).exists():
            return str((folder / value).resolve())
        before, sign, after = value.rpartition(":")
        if sign and before and (folder / before).exists():
            return f"{(folder / before).resolve()}:{after}"
    return value
