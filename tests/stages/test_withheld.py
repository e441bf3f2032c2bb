"""Rows whose prompts a task measures on never train, whatever stage and whatever door they come through.

Run: .venv/bin/python -m pytest tests/stages/test_withheld.py   (about 20 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import outdo
from outdo import recipe
from outdo.runs.check import check_recipe
from outdo.runs.resolve import resolve
from outdo.system import files

SIZES = {"width": 16, "depth": 1, "heads": 2, "context": 64}
ROWS = [{"prompt": f"What is {i} plus {i}?", "completion": f" {2 * i}"} for i in range(40)]
SHORT: dict[str, Any] = {"quiet": True, "threads": 1, "dtype": "fp32", "max_prompt_tokens": 32, "max_new_tokens": 8}


def right(completions: list[str], completion: list[str] = (), **kwargs: Any) -> list[float]:  # type: ignore[assignment]
    return [float(len(c)) for c in completions]


def test_one_file_for_training_and_for_measuring(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    (tmp_path / "rewards.py").write_text("def right(completions, **kw):\n    return [1.0] * len(completions)\n", encoding="utf-8")
    made = recipe.parse({
        "name": "x", "model": {**SIZES, "tokenizer": "smollm2"}, "threads": 1, "dtype": "fp32",
        "task": {"name": "dataset", "data": str(file), "max_prompt_tokens": 32, "max_new_tokens": 8},
        "judge": {"name": "function", "functions": [f"{tmp_path}/rewards.py:right"]},
        "stage": {"sft": {"kind": "sft", "data": str(file), "episodes": 16, "heldout": 0.0},
                  "pretrain": {"kind": "pretrain", "data": str(file), "episodes": 16, "heldout": 0.0}}})  # fmt: skip
    checked = check_recipe(resolve(made))
    heldout = checked.task.size("heldout")
    assert heldout and checked.recipe.evaluation.prompts == heldout, "as many as there are, where the recipe does not say"
    assert any(f"{heldout} of 40 rows are left out: their prompts are measured on" in note for note in checked.notes)
    assert checked.recipe.stage["sft"].steps == -(-(40 - heldout) // 16), "one pass over the rest"


def test_what_trained(tmp_path: Path) -> None:
    """The last batch is smaller: every row trains once, and none that is measured on."""
    run = outdo.imitate(SIZES, ROWS, tokenizer="smollm2", eval_dataset=ROWS[:9], reward=right, batch_size=16, heldout=0.0,
                        out=tmp_path / "run", **{**SHORT})  # fmt: skip
    trained = [m["episodes"] for m in run.metrics]
    assert trained == [16.0, 15.0], "31 of 40 rows"
    assert files.read_json(run.folder / "summary.json")
