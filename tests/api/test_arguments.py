"""Arguments as users of other tools write them: TRL's names, paths as strings, runs as starts.

Run: .venv/bin/python -m pytest tests/api/test_arguments.py   (about 25 s on one core)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from processes import SCRATCH

import outdo
from outdo import recipe
from outdo.api.building import FROM_TRL
from outdo.errors import UserError

SIZES = {"width": 16, "depth": 1, "heads": 2, "context": 64}
ROWS = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(60)]
SHORT: dict[str, Any] = {"quiet": True, "threads": 1, "dtype": "fp32"}
RL: dict[str, Any] = {**SHORT, "max_prompt_tokens": 32, "max_new_tokens": 8, "steps": 1, "prompts": 2, "group_size": 2,
                      "force": True}  # fmt: skip


def letters(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(sum(c.isalpha() for c in text)) for text in completions]


@pytest.fixture(scope="module")
def base() -> outdo.Result:
    return outdo.pretrain([{"text": r["prompt"]} for r in ROWS], SIZES, tokenizer="smollm2", steps=3, batch_size=4,
                          out=SCRATCH / "arguments", learning_rate=1e-2, **SHORT)


@pytest.mark.parametrize(("key", "value"), [("num_generations", 8), ("beta", 0.1), ("max_completion_length", 9), ("top_p", 0.9)])
def test_names_of_trl(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=re.escape(f"{key} is TRL's name; here it is {FROM_TRL[key][:8]}")):
        outdo.reinforce("smollm2", ROWS, letters, **{key: value})


def test_an_unknown_argument() -> None:
    with pytest.raises(UserError, match=r"^unknown argument groop_size; did you mean .group_size."):
        outdo.reinforce("smollm2", ROWS, letters, groop_size=3)


def test_names_of_trl_for_what_is_required() -> None:
    with pytest.raises(UserError, match=r"train_dataset is TRL.s name; here it is dataset"):
        outdo.reinforce("smollm2", train_dataset=ROWS, reward_funcs=letters)
    with pytest.raises(UserError, match="reinforce takes a dataset"):
        outdo.reinforce("smollm2", reward=letters)


def test_columns_and_dry_runs_of_every_call(base: outdo.Result) -> None:
    """A short stage on a checkpoint is not all warm-up."""
    rows = [{"ticket": r["prompt"], "reply": r["answer"]} for r in ROWS]
    names = {"prompt": "ticket", "completion": "reply"}
    assert outdo.imitate(base, rows, columns=names, dry_run=True, **SHORT) is None  # type: ignore[func-returns-value]

    def known(completions: list[str], reply: list[str], **kwargs: Any) -> list[float]:
        return [float(len(r)) for r in reply]

    done = outdo.reinforce(base, rows, known, columns={"prompt": "ticket"}, dry_run=True, **RL)
    assert done is None  # type: ignore[func-returns-value]


def test_the_documents_hold_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "from_trl.md").read_text(encoding="utf-8")
    for theirs in FROM_TRL:
        assert f"| `{theirs}` |" in text, theirs


def test_a_run_is_named_by_its_folder_and_stage(base: outdo.Result, tmp_path: Path) -> None:
    name = f"{base.folder}:pretrain"
    run = outdo.reinforce(name, ROWS, letters, eval_prompts=3, out=str(tmp_path / "a"), **RL)
    assert outdo.Result(str(run.folder)).metrics == run.metrics
    starts = {p["name"] for p in run.summary["players"]}
    assert any("arguments:pretrain" in s or s.endswith("pretrain (start)") for s in starts), starts
    with pytest.raises(UserError, match="has no stage 'pretrian'; did you mean 'pretrain'"):
        outdo.reinforce(f"{base.folder}:pretrian", ROWS, letters, out=tmp_path / "b", **RL)


def test_rows_to_evaluate_on(base: outdo.Result, tmp_path: Path) -> None:
    run = outdo.reinforce(base, ROWS, letters, eval_dataset=ROWS[:7], out=tmp_path / "a", **RL)
    assert {e["n"] for e in run.evaluations} == {7}


def test_a_dry_run_writes_nothing(base: outdo.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outdo.reinforce(base, ROWS, letters, dry_run=True, **RL) is None  # type: ignore[func-returns-value]
    assert not list(tmp_path.iterdir())


def test_columns_of_rows_to_imitate(base: outdo.Result, tmp_path: Path) -> None:
    """Named once, they hold for the check before training, for training and for the rows that the loss is measured on."""
    rows = [{"asked": r["prompt"], "said": f" {r['answer']}"} for r in ROWS[:19]]
    columns = {"prompt": "asked", "completion": "said"}
    run = outdo.imitate(base, rows, eval_dataset=rows[:3], columns=columns, out=tmp_path / "a", learning_rate=1e-3, **SHORT)
    assert sum(m["episodes"] for m in run.metrics) == 19


def test_passes_over_rows(base: outdo.Result, tmp_path: Path) -> None:
    """19 rows twice, 16 to a step: three steps, the last of which is smaller."""
    rows = [{"prompt": r["prompt"], "completion": f" {r['answer']}"} for r in ROWS[:19]]
    run = outdo.imitate(base, rows, epochs=2, heldout=0.0, out=tmp_path / "a", learning_rate=1e-3, **SHORT)
    assert [m["episodes"] for m in run.metrics] == [16.0, 16.0, 6.0]
    stored = recipe.load(run.folder / "recipe.toml").stage["sft"]
    assert stored.steps == 3


def test_what_is_left_open_follows_from_the_start(base: outdo.Result, tmp_path: Path) -> None:
    """A checkpoint gets small steps and warm-up; replies and prompts fit into the model's 64 tokens."""
    run = outdo.reinforce(base, ROWS, letters, eval_prompts=0, steps=1, prompts=2, group_size=2, force=True, out=tmp_path / "a",
                          **SHORT)  # fmt: skip
    stored = recipe.load(run.folder / "recipe.toml")
    stage, task = stored.stage["rl"], stored.task.options
    assert (stage.optimizer.lr, stage.optimizer.warmup_steps, stage.optimizer.betas) == (2e-5, 5, (0.9, 0.99))
    assert task["max_prompt_tokens"] + task["max_new_tokens"] <= 64
    assert stored.judge.options["unscored_limit"] == 0.5 if not stored.python else True
