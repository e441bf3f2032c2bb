"""Run folders by name: where a new run goes, and the recipe of an existing one."""

from __future__ import annotations

from pathlib import Path

from outdo.errors import check
from outdo.recipe import Recipe, load
from outdo.runs import origin
from outdo.stages.common.saving import options_of
from outdo.system import files


def new_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a new run goes: `out`, which must not exist, or runs/<name>-<n>."""
    if out is not None:
        check(not out.exists(), f"run folder {str(out)!r} exists; choose another --out, or resume it with --resume {out}")
        return out
    n = 1
    while (folder := Path("runs") / f"{recipe.name}-{n}").exists():
        n += 1
    return folder


def check_resumable(recipe: Recipe, folder: Path, force: bool = False) -> None:
    """Raise UserError where the rest of a run would not belong to its beginning. force: changed files are noted, not refused."""
    for name, stage in recipe.stage.items():
        file = folder / "stages" / name / "done.json"
        done = files.read_json(file) if file.exists() else {}
        check(isinstance(done, dict) and (not file.exists() or "checkpoint" in done), f"{file} is damaged; delete it and resume: "
              "the stage goes on from its last checkpoint")
        before, now = done.get("options"), options_of(stage)
        if before is not None:
            changed = [k for k in now if before.get(k) != now[k] and k != "allow_no_signal"]
            check(not changed, f"stage {name} in {folder} is finished, and its recipe has been edited since "
                  f"({', '.join(changed)}); put the old values back, or train on with a "
                  "new stage that starts from it: "
                  f"from = '{folder}:{name}'")
    origin.check_unchanged(recipe, folder, force)
    origin.check_kernels(folder, force)


def resume_recipe(folder: Path) -> Recipe:
    """The recipe of an existing run folder."""
    file = folder / "recipe.toml"
    check(file.is_file(), f"{str(folder)!r} is not a run folder (it has no recipe.toml); give what outdo run printed")
    return load(file)
