"""Rows that cannot be used are found before anything trains, wherever they stand; pairs of equal answers can be left out.

Run: .venv/bin/python -m pytest tests/stages/test_usable_rows.py   (about 15 s on one core)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import real
from processes import Ended, forked, lines

RECIPE = """
name = "usable"
threads = 1
dtype = "fp32"
task = {{ name = "dataset", data = "prompts.jsonl", max_new_tokens = 8 }}
judge = {{ name = "length" }}
model = {{ width = 16, depth = 1, heads = 2, context = 64, tokenizer = "{tokenizer}" }}
evaluation = {{ prompts = 0 }}
[stage.x]
data = "rows.jsonl"
episodes = 8
heldout = 0.1
{stage}
"""
PAIRS = [{"prompt": f"{i}?", "chosen": f" yes {i}", "rejected": " no"} for i in range(100)]
ASKED = [{"prompt": f"{i}?", "completion": f" yes {i}", "w": 1.0} for i in range(100)]
PREFERENCE, REWARD_MODEL = 'kind = "preference"', 'kind = "reward_model"'


def tried(folder: Path, rows: list[dict[str, Any]], stage: str, *more: object) -> Ended:
    for name, found in (("rows", rows), ("prompts", [{"prompt": f"other {i}"} for i in range(20)])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found), encoding="utf-8")
    (folder / "r.toml").write_text(RECIPE.format(tokenizer=real.smollm2(), stage=stage), encoding="utf-8")
    return forked("run", "r.toml", *more, cwd=folder)


def spoiled(rows: list[dict[str, Any]], **columns: Any) -> list[dict[str, Any]]:
    """Rows 90 and 95 with these columns; a column whose value is Ellipsis is missing there."""
    changed = [{**row, **(columns if i in (90, 95) else {})} for i, row in enumerate(rows)]
    return [{k: v for k, v in row.items() if v is not ...} for row in changed]


@pytest.mark.parametrize(("stage", "rows", "said"), [
    (PREFERENCE, spoiled(PAIRS, rejected=None), "column rejected holds None"),
    (PREFERENCE, spoiled(PAIRS, rejected=...), "has the columns prompt, chosen; a row of preferences has chosen and rejected"),
    (REWARD_MODEL, spoiled(PAIRS, rejected=" a", chosen=" a"), "chosen and rejected are the same"),
    (REWARD_MODEL + '\nmargin = "m"', [{**r, "m": 1.0} for r in PAIRS[:90]] + spoiled(PAIRS)[90:], "column m holds None"),
    ('kind = "sft"', spoiled(ASKED, completion=None), "column completion holds None"),
    ('kind = "sft"\nweights = "w"', spoiled(ASKED, w=None), "column w holds None"),
    ('kind = "sft"', spoiled(ASKED, prompt=[{"role": "human", "content": "?"}], completion=[{"role": "gpt", "content": "!"}]),
     "a message has the role 'human'; wanted are system, user, assistant and tool"),
])  # fmt: skip
def test_a_late_bad_row_is_named_before_the_start(tmp_path: Path, stage: str, rows: list[dict[str, Any]], said: str) -> None:
    done = tried(tmp_path, rows, stage, "--dry-run")
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert "rows.jsonl, row 90" in done.err and said in done.err and "of 100 rows cannot be used; the others: 9" in done.err


def test_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    done = tried(tmp_path, spoiled(ASKED, completion=...), 'kind = "sft"', "--dry-run")
    assert done.code == 0 and "2 of 100 rows have a prompt and no answer" in done.out and "row 90" in done.out


@pytest.mark.parametrize("kind", [PREFERENCE, REWARD_MODEL])
def test_pairs_of_equal_answers_can_be_left_out(tmp_path: Path, kind: str) -> None:
    rows = [{**r, "rejected": r["chosen"]} if i % 2 else r for i, r in enumerate(PAIRS)]
    refused = tried(tmp_path, rows, kind, "--dry-run")
    assert refused.code == 2 and "identical = 'drop'" in refused.err and "(50 of 100 rows" in refused.err
    done = tried(tmp_path, rows, kind + '\nidentical = "drop"', "--out", "run")
    assert done.code == 0, done.err
    assert "rows are left out: chosen and rejected are the same" in done.out
    metrics = lines(tmp_path / "run" / "stages" / "x" / "metrics.jsonl")
    before = lines(tmp_path / "run" / "stages" / "x" / "heldout.jsonl")[0]
    held = before["n"]
    assert before["value"] == metrics[0]["pair_accuracy"] == 0.5, "nothing is preferred before the first step"
    assert sum(m["episodes"] for m in metrics) == 50 - held and not any(m["dropped"] for m in metrics) and held
    nothing = tried(tmp_path, rows[1::2], kind + '\nidentical = "drop"', "--dry-run")
    assert nothing.code == 2 and "chosen and rejected are the same, so nothing trains" in nothing.err


def test_a_task_does_not_ask_what_others_answered(tmp_path: Path) -> None:
    """Messages in ShareGPT's roles held no answer that anybody knew, so the answer would have been part of the prompt."""
    chat = {"messages": [{"role": "human", "content": "?"}, {"role": "gpt", "content": "!"}]}
    (tmp_path / "chats.jsonl").write_text((json.dumps(chat) + "\n") * 20, encoding="utf-8")
    more = ("--set", "task.data='chats.jsonl'", "--set", "evaluation.prompts=2")
    done = tried(tmp_path, ASKED, 'kind = "sft"', "--dry-run", *more)
    assert done.code == 2 and "a message has the role 'human'" in done.err


@pytest.mark.parametrize("where", ["judge", "stage.x.judge"])
def test_a_judge_that_is_no_reward_model_is_refused_at_the_start(tmp_path: Path, where: str) -> None:
    stage = f"""kind = "sft"
[stage.y]
kind = "rl"
from = "x"
[{where.replace('.x', '.y')}]
name = "reward_model"
model = "{real.smollm2()}"
"""
    recipe = RECIPE.replace('judge = {{ name = "length" }}\n', "" if where == "judge" else 'judge = {{ name = "length" }}\n')
    (tmp_path / "r.toml").write_text(recipe.format(tokenizer=real.smollm2(), stage=stage), encoding="utf-8")
    for name in ("rows", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ASKED), encoding="utf-8")
    done = forked("run", "r.toml", "--dry-run", cwd=tmp_path)
    assert done.code == 2 and "is no reward model: its config.json says LlamaForCausalLM" in done.err, done.err
