"""Run folders by name: where a new run goes, and the recipe of an existing one."""

from __future__ import annotations

from pathlib import Path

from outdo.errors import check
from outdo.recipe import Recipe, load


def new_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a new run goes: `out`, which must not exist, or runs/<name>-<n>."""
    if out is not None:
        check(not out.exists(), f"run folder {str(out)!r} exists; choose another --out, or go on with --resume {out}")
        return out
    n = 1
    while (folder := Path("runs") / f"{recipe.name}-{n}").exists():
        n += 1
    return folder


def resume_recipe(folder: Path) -> Recipe:
    """The recipe of an existing run folder."""
    file = folder / "recipe.toml"
    check(file.is_file(), f"{str(folder)!r} is no run folder (it has no recipe.toml); give what outdo run printed")
    return load(file)
