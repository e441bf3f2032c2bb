"""Every block of code in docs/rewards.md: files are loaded, tables make judges and tasks, and what the page says of them is so.

Run: .venv/bin/python -m pytest tests/judges/test_reward_docs.py   (about 6 s on one core)
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
from talk import converse

from outdo import plugins
from outdo.errors import UserError
from outdo.judges.base import Judge
from outdo.judges.function import FunctionJudge
from outdo.judges.functions import signatures
from outdo.plugins import Plugin
from outdo.tasks.base import Task
from outdo.tasks.dataset import Dataset
from outdo.types import Finish, Trajectory

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|toml)\n(.*?)```", PAGE, re.DOTALL)
FILES = {code.split("\n")[0].removeprefix("# "): code for kind, code in BLOCKS if kind == "python"}
TABLES: list[dict[str, Any]] = [tomllib.loads(code) for kind, code in BLOCKS if kind == "toml"]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        Path(name).write_text(code, encoding="utf-8")
    Path("goals.jsonl").write_text(json.dumps({"prompt": "Go.", "goal": 3}) + "\n", encoding="utf-8")


def reply(words: str) -> Trajectory:
    mask = np.array([False, True])
    return Trajectory("p", 0, np.arange(2), mask, np.float32(mask), 0, Finish.STOP,
                      {"prompt": "2+2?", "completion": words, "answer": "4"})


def test_the_page_has_the_blocks_that_are_tested() -> None:
    assert {*FILES} == {"my_rewards.py", "four_conventions.py", "my_tools.py", "my_partner.py", "my_rollouts.py"}
    assert [next(iter(t)) for t in TABLES] == ["judge"] * 3 + ["task"] * 3 + ["stage"]


def test_judges() -> None:
    first, ready, model = (t["judge"] for t in TABLES[:3])
    judge = plugins.make("judges", Plugin(**first), Judge)  # type: ignore[type-abstract]
    assert [s.value for s in judge.score([reply("4"), reply("five")])] == [1.0 - 0.0002, pytest.approx(-0.0008)]
    judge = plugins.make("judges", Plugin(**ready), Judge)  # type: ignore[type-abstract]
    assert judge.score([reply("<think>a</think>4")])[0].value == 0.2
    with pytest.raises(UserError, match="org/reward-model"):
        plugins.make("judges", Plugin(**model), Judge).score([reply("4")])  # type: ignore[type-abstract]


@pytest.mark.parametrize("style", ["trl", "verl", "verifiers", "openrlhf"])
def test_conventions(style: str) -> None:
    judge = FunctionJudge.of([f"four_conventions.py:{style}"])
    assert style in judge.describe().lower().split("(")[1]
    assert [s.value for s in judge.score([reply("4"), reply("5")])] == [1.0, 0.0]
    assert judge.logged() == ({"characters": 1.0} if style == "trl" else {})


def test_the_table_of_signatures_is_whole() -> None:
    rows = {row.split("|")[1].strip(): row for row in PAGE.split("## Signatures")[1].split("## ")[0].splitlines() if "|" in row}
    for style, names in (("TRL", signatures._TRL), ("verifiers (rubric functions)", signatures._VERIFIERS - {"task"}),
                         ("verifiers (group functions)", signatures._OF_GROUPS)):
        assert all(f"`{name}`" in rows[style] for name in names), style
    order = ", ".join(f"`{name}`" for name in signatures._ANSWERS[:-1]) + f" or `{signatures._ANSWERS[-1]}`"
    assert order in " ".join(PAGE.split())


def test_tasks() -> None:
    for table in TABLES[3:5]:
        plugins.make("tasks", Plugin(**table["task"]), Task)  # type: ignore[type-abstract]
    counts = Plugin(**{**TABLES[5]["task"], "validation": 0.0, "heldout": 0.0})
    task = plugins.make("tasks", counts, Dataset)
    task.bind(real.tokenizer())
    (prompt,) = task.prompts("train", 1, 0)
    assert prompt.row["prompt"][-1]["content"] == "Go. Count to 3."
    said = '<tool_call>{"name": "add", "arguments": {"n": 3}}</tool_call>'
    _, _, info = converse(task, prompt, [said, "Done."])
    assert info["completion"][1]["content"] == "The count is 3." and info["environment_reward"] == 1.0


def test_partner_and_rollouts() -> None:
    row = {"prompt": [{"role": "user", "content": "Guess."}], "answer": "red"}
    task = Dataset.of([row], validation=0.0, heldout=0.0, environment="my_partner.py:Guess")
    task.bind(real.tokenizer())
    _, _, info = converse(task, task.prompts("train", 1, 0)[0], ["blue", "red"])
    assert [m["content"] for m in info["completion"]] == ["blue", "No. Try again.", "red", "Yes!"]
    assert info["environment_reward"] == 0.5
    assert callable(plugins.load(TABLES[6]["stage"]["rl"]["rollout"]))
