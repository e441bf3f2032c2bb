"""What a run was made from, by hash: its data, plug-in files and first checkpoint. A resume that finds another says so.

Written to origin.json when a run begins. Small files are hashed whole; files beyond 64 MB by their size and three pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outdo import kernels
from outdo.errors import check
from outdo.recipe import Recipe
from outdo.system import files

FILE = "origin.json"
_WHOLE_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20


def write(recipe: Recipe, folder: Path) -> None:
    """Write origin.json."""
    files.write_json(folder / FILE, {"files": fingerprints(recipe), "changed": []})


def check_unchanged(recipe: Recipe, folder: Path, force: bool) -> None:
    """Raise UserError for a file that has changed since the run began; with force, note it in origin.json and go on."""
    file = folder / FILE
    if not file.exists():
        return
    known: dict[str, Any] = files.read_json(file)
    now = fingerprints(recipe)
    changed = sorted(p for p in known["files"].keys() | now.keys() if known["files"].get(p) != now.get(p))
    check(force or not changed, f"{', '.join(changed[:3])} {'has' if len(changed) == 1 else 'have'} changed since the run in "
          f"{folder} began, so the rest of it would not belong to its beginning; "
          "put the old content back, start a new run, or resume with "
          "--force, which marks the run")
    if changed:
        files.write_json(file, {"files": now, "changed": [*known["changed"], *changed]})


def check_kernels(folder: Path, force: bool = False) -> None:
    """Raise UserError where the kernels that began the run are not the ones here: the rest would have other bits.

    force: go on with the ones that are here, and note it.
    """
    file = folder / "environment.json"
    about: dict[str, Any] = files.read_json(file) if file.exists() else {}
    if about.get("device") != "cpu" or about.get("kernels") == kernels.decided():
        return
    check(force, f"the run in {folder} began with {about.get('kernels')} kernels and here there are {kernels.decided()} ones, "
          "so it could not go on to the bit; resume where it began (docs/models.md, compiled kernels), or with --force")
    files.write_json(file, {**about, "kernels": kernels.decided(), "kernels_before": about.get("kernels")})


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Path -> fingerprint of every file that the recipe names."""
    named = sorted(set(_paths(recipe.model_dump(mode="json", by_alias=True))))
    return {str(p): _fingerprint(p) for p in named if p.exists()}


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, dict):
        for v in value.values():
            yield from _paths(v)
    elif isinstance(value, list):
        for v in value:
            yield from _paths(v)
    elif isinstance(value, str) and value.startswith("/"):  # a recipe's paths are whole by now
        before = value.rpartition(":")[0]
        yield Path(before) if before and Path(before).is_file() else Path(value)


def _fingerprint(path: Path) -> str:
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file())
        return _digest("".join(f"{p.name} {_fingerprint(p)}\n" for p in inside).encode())
    size = path.stat().st_size
    with path.open("rb") as f:
        if size <= _WHOLE_BYTES:
            return _digest(f.read())
        pieces = []
        for at in (0, size // 2, size - _PIECE_BYTES):
            f.seek(at)
            pieces.append(f.read(_PIECE_BYTES))
        return _digest(str(size).encode() + b"".join(pieces))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
