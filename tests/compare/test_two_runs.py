"""outdo compare of two runs whose recipes differ: paired where both were measured alike, refused in one line where not.

Run: .venv/bin/python -m pytest tests/compare/test_two_runs.py   (about 20 s on one core)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from processes import forked, lines, reference

from outdo import recipe


def other(folder: Path, **changed: object) -> Path:
    """The reference run under another recipe."""
    shutil.copytree(reference(), folder)
    made = recipe.load(folder / "recipe.toml")
    (folder / "recipe.toml").write_text(recipe.parse(made.model_dump(by_alias=True, exclude_none=True), {
        "stage.rl.temperature": 0.5, **changed}).to_toml(), encoding="utf-8")
    return folder


def test_the_ends_of_two_recipes(tmp_path: Path) -> None:
    b = other(tmp_path / "b")
    rows = lines(b / "stages" / "rl" / "evaluations.jsonl")
    for r in rows:
        r["items"] = [1.0] * len(r["items"])
    (b / "stages" / "rl" / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    done = forked("compare", reference(), b, cwd=tmp_path)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "different recipes, measured on the same" in said and "B is better" in said and "100.0 % [" in said and "Cost" in said
    same = forked("compare", reference(), other(tmp_path / "c"), cwd=tmp_path)
    assert same.code == 0 and "not distinguishable" in " ".join(same.out.split()) and "is better" not in same.out


@pytest.mark.parametrize(("key", "value", "said"), [
    ("task.max_moves", 3, "another task than"), ("gold", {"name": "random_reward"}, "another gold than"),
    ("evaluation.prompts", 3, "evaluation.prompts is"),
])  # fmt: skip
def test_runs_that_were_measured_otherwise_are_refused(tmp_path: Path, key: str, value: object, said: str) -> None:
    done = forked("compare", reference(), other(tmp_path / "b", **{key: value}), cwd=tmp_path)
    assert done.code == 2 and said in done.err and "so a difference would say nothing" in done.err and done.err.count("\n") == 1


def test_several_recipes_are_refused(tmp_path: Path) -> None:
    done = forked("compare", reference(), other(tmp_path / "b"), other(tmp_path / "c"), cwd=tmp_path)
    assert done.code == 2 and "has another recipe than" in done.err and "two runs alone" in done.err
