"""A run folder that is resumed: nothing that it was made from has changed, and nothing in it is damaged.

Run: .venv/bin/python -m pytest tests/runs/test_origin.py   (about 25 s on one core)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import forked, reference

from outdo.system import files

RL = Path("stages") / "rl"


def copy(tmp_path: Path, finished: bool = False) -> Path:
    """A run that was interrupted after its RL stage's last checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(reference(), folder)
    if not finished:
        (folder / RL / "done.json").unlink()
        (folder / "summary.json").unlink()
    return folder


def resume(folder: Path, *options: str) -> Any:
    return forked("run", "--resume", folder, *options, cwd=folder.parent)


def cut(file: Path, lines: int) -> None:
    kept = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(kept[:-lines]), encoding="utf-8")


def test_an_undamaged_run_ends(tmp_path: Path) -> None:
    done = resume(copy(tmp_path))
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_journals_that_lack_lines(name: str, how: str, tmp_path: Path) -> None:
    folder = copy(tmp_path)
    file = folder / RL / name
    want = files.count_lines(file)
    if how == "gone":
        file.unlink()
    else:
        cut(file, min(4, want))
    done = resume(folder)
    assert done.code == 2 and "Traceback" not in done.err
    assert f"{name} has " in done.err and "lines that the checkpoint" in done.err


@pytest.mark.parametrize("line", ["1", "{", "\x00\x01", "[]"])
def test_lines_that_are_no_records(line: str, tmp_path: Path) -> None:
    folder = copy(tmp_path)
    file = folder / RL / "metrics.jsonl"
    kept = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*kept[:3], line, *kept[4:]]) + "\n", encoding="utf-8")
    done = resume(folder)
    assert done.code == 2 and "metrics.jsonl, line 4 is damaged" in done.err and "Traceback" not in done.err


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (checkpoint,) = (folder / RL / "checkpoints").iterdir()
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    done = resume(folder)
    assert done.code == 2 and "is not as it was written; it is damaged" in done.err


def test_a_file_among_the_checkpoints_and_an_empty_end(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / RL / "checkpoints" / ".x.tmp").write_text("", encoding="utf-8")
    assert resume(folder).code == 0
    (folder / RL / "done.json").write_text("", encoding="utf-8")
    done = resume(folder)
    assert done.code == 2 and "done.json is damaged" in done.err
    (folder / RL / "done.json").write_text("{}", encoding="utf-8")
    done = resume(folder)
    assert done.code == 2 and "done.json is damaged; delete it and resume" in done.err


def test_a_recipe_that_is_edited_behind_a_finished_stage(tmp_path: Path) -> None:
    folder = copy(tmp_path, finished=True)
    file = folder / "recipe.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("steps = 24", "steps = 48"), encoding="utf-8")
    done = resume(folder)
    assert done.code == 2 and "stage sft in" in done.err and "edited since (steps)" in done.err


def test_data_and_functions_that_change(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(40)), encoding="utf-8")
    rewards = "def r(completions, **k):\n    return [float(len(c)) for c in completions]\n"
    (tmp_path / "rewards.py").write_text(rewards, encoding="utf-8")
    (tmp_path / "x.toml").write_text("""
name = "x"
threads = 1
dtype = "fp32"
model = { width = 16, depth = 1, heads = 2, tokenizer = "smollm2" }
task = { name = "dataset", data = "rows.jsonl", max_prompt_tokens = 16, max_new_tokens = 4 }
judge = { name = "function", functions = ["rewards.py:r"] }
evaluation = { prompts = 0 }
[stage.rl]
kind = "rl"
steps = 1
prompts = 2
group_size = 2
allow_no_signal = true
""", encoding="utf-8")  # fmt: skip
    assert forked("run", "x.toml", "--out", "run", cwd=tmp_path).code == 0
    folder = tmp_path / "run"
    (folder / "stages" / "rl" / "done.json").unlink()
    for name in ("rows.jsonl", "rewards.py"):
        old = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(old + "\n", encoding="utf-8")
        done = resume(folder)
        assert done.code == 2 and f"{tmp_path / name} has changed since the run in" in done.err
        (tmp_path / name).write_text(old, encoding="utf-8")
    (tmp_path / "rewards.py").write_text("def r(completions, **k):\n    return [1.0] * len(completions)\n", encoding="utf-8")
    assert resume(folder, "--force").code == 0
    assert files.read_json(folder / "origin.json")["changed"] == [str(tmp_path / "rewards.py")]


def test_other_kernels_than_those_that_began(tmp_path: Path) -> None:
    """A compiler that is gone, or was killed, never changes silently what computes."""
    folder = copy(tmp_path)
    file = folder / "environment.json"
    about = files.read_json(file)
    other = {"compiled": "torch", "torch": "compiled"}[about["kernels"]]
    files.write_json(file, {**about, "kernels": other})
    done = resume(folder)
    assert done.code == 2 and f"began with {other} kernels" in done.err
    assert resume(folder, "--force").code == 0
    assert files.read_json(file)["kernels_before"] == other
