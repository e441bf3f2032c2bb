"""The way of somebody with data of their own: init, a dry run, a run, eval with its answers, a chat, clean.

Run: .venv/bin/python -m pytest tests/cli/test_own_data.py   (about 60 s on one core)
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from processes import SCRATCH, forked
from rich.console import Console

import outdo
from outdo.cli import chat
from outdo.runs import reopen

SIZES = {"width": 16, "depth": 1, "heads": 2, "context": 128}
CSV = "text,category\n" + "".join(f"Where is parcel {i}?,delivery {i % 3}\n" for i in range(54))
REWARD = "def right(completions, answer, **kw):\n    return [float(a in c[0]['content']) for c, a in zip(completions, answer)]\n"


@pytest.fixture(scope="module")
def model() -> Path:
    run = outdo.pretrain([{"text": "Where is it?"}] * 20, SIZES, tokenizer="smollm2", steps=2, batch_size=4, heldout=0.0,
                         out=SCRATCH / "own", learning_rate=1e-2, quiet=True, threads=1, dtype="fp32")
    return run.save(SCRATCH / "own-model")


@pytest.fixture(scope="module")
def place(model: Path) -> Path:
    folder = SCRATCH / "own-data"
    folder.mkdir()
    (folder / "faq.csv").write_text(CSV, encoding="utf-8")
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    done = forked("init", "--model", model, "--data", "faq.csv", "--reward", "rewards.py:right", "--columns", "question=text",
                  "--columns", "answer=category", cwd=folder)  # fmt: skip
    assert done.code == 0, done.err
    return folder


SMALL = [x for o in ("threads=1", 'dtype="fp32"', "stage.rl.steps=1", "stage.rl.prompts=2", "stage.rl.group_size=2",
                     "stage.rl.allow_no_signal=true", "task.max_new_tokens=8", "evaluation.points=1", "stage.sft.heldout=0.0")
         for x in ("--set", o)]  # fmt: skip


def test_what_init_writes(place: Path, model: Path) -> None:
    made = tomllib.loads((place / "recipe.toml").read_text(encoding="utf-8"))
    assert made["task"]["columns"] == {"question": "text", "answer": "category"} and made["stage"]["sft"]["from"] == str(model)
    assert made["stage"]["rl"]["from"] == "sft" and made["judge"]["functions"] == ["rewards.py:right"]
    again = forked("init", "--model", model, "--data", "faq.csv", "--reward", "rewards.py:right", cwd=place)
    assert again.code == 2 and "'recipe.toml' exists" in again.err
    wrong = forked("init", "--model", model, "--data", "faq.csv", "--reward", "rewards.py:wrong", "--out", "b.toml", cwd=place)
    assert wrong.code == 2 and "rewards.py has no wrong; there is right" in wrong.err


ROWS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"prompt": f"Where is parcel {i}?", "completion": f" bay {i % 3}", "answer": str(i % 3)} for i in range(40)],
    "pairs": [{"prompt": f"Where is parcel {i}?", "chosen": f"bay {i}", "rejected": "no idea"} for i in range(40)],
}


def initialised(place: Path, model: Path, name: str, *more: object) -> dict[str, Any]:
    """The recipe that init writes for these rows; a dry run accepts it."""
    (place / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS[name]), encoding="utf-8")
    out = place / f"{name}{len(more)}.toml"
    done = forked("init", "--model", model, "--data", f"{name}.jsonl", "--out", out, *more, cwd=place)
    assert done.code == 0, done.err
    tried = forked("run", out, "--dry-run", "--set", "threads=1", cwd=place)
    assert tried.code == 0 and "warning" not in tried.out, (tried.out, tried.err)
    made = tomllib.loads(out.read_text(encoding="utf-8"))
    lr = {"sft": "SFT", "rl": "RL", "preference": "preference optimisation", "reward_model": "reward models"}
    said = " ".join(tried.out.replace("│", "").split())
    assert all(f"(the default for {lr[s['kind']]} from a checkpoint)" in said for s in made["stage"].values()), said
    return made


def test_plain_strings_train_in_the_form_in_which_they_are_asked(place: Path, model: Path) -> None:
    """The limit counts the chat template, SFT goes through it as RL does, and a recipe that mixes the two is warned of."""
    made = initialised(place, model, "plain", "--reward", "rewards.py:right")
    assert made["task"]["chat"] and made["stage"]["sft"]["columns"] == {"question": "prompt", "answer": "completion"}
    assert made["task"]["max_prompt_tokens"] > 30, "counted through the template"
    recipe = ["run", place / "plain2.toml", "--dry-run", "--set", "threads=1"]
    bare = forked(*recipe, "--set", "stage.sft.columns={}", cwd=place)
    assert "sft: warning: the rows hold plain strings" in bare.out
    assert 'columns = { question = "prompt", answer = "completion" }' in " ".join(bare.out.split())
    asked = forked(*recipe, "--set", "task.chat=false", cwd=place)
    assert "sft: warning: the rows hold messages" in asked.out


def test_preferences_get_dpo_and_a_reward_model(place: Path, model: Path) -> None:
    made = initialised(place, model, "pairs")
    assert {n: s["kind"] for n, s in made["stage"].items()} == {"dpo": "preference", "rm": "reward_model"}
    spoken = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
    assert made["evaluation"]["prompts"] == 0 and made["stage"]["dpo"]["columns"] == made["stage"]["rm"]["columns"] == spoken
    useless = initialised(place, model, "pairs", "--reward", "rewards.py:right")
    assert useless["evaluation"]["prompts"] == 0 and "judge" not in useless
    (place / "any.py").write_text("def any(completions, **kw):\n    return [1.0] * len(completions)\n", encoding="utf-8")
    measured = initialised(place, model, "pairs", "--reward", "any.py:any", "--columns", "prompt=prompt")
    assert measured["judge"]["functions"] == ["any.py:any"] and "rl" not in measured["stage"]


def test_init_refuses_what_cannot_run(place: Path, model: Path) -> None:
    done = forked("init", "--model", model, "--data", "plain.jsonl", "--out", "x.toml", cwd=place)
    assert done.code == 2 and "need a reward function; give one" in done.err
    (place / "other.py").write_text("def f(completions, depot, **kw):\n    return []\n", encoding="utf-8")
    done = forked("init", "--model", model, "--data", "plain.jsonl", "--out", "x.toml", "--reward", "other.py:f", cwd=place)
    assert done.code == 2 and "needs the column depot" in done.err and not (place / "x.toml").exists()


def test_a_reward_that_needs_a_column_that_is_not_there(place: Path) -> None:
    reward = "def f(completions, departmnt, **kw):\n    return [0.0] * len(completions)\n"
    (place / "other.py").write_text(reward, encoding="utf-8")
    done = forked("run", "recipe.toml", "--dry-run", *SMALL, "--set", 'judge.functions=["other.py:f"]', cwd=place)
    assert done.code == 2 and "judge function needs the column departmnt, which the rows do not have; there is" in done.err


def test_what_a_dry_run_shows(place: Path) -> None:
    """Only keys that mean something here; the rows that are measured on do not train, and the plan says how many."""
    done = forked("run", "recipe.toml", "--dry-run", *SMALL, cwd=place)
    assert done.code == 0, done.err
    for idle in ("opponents", "random_moves", "player", "[model]"):
        assert idle not in done.out, idle
    assert "clip_high" in done.out and "max_prompt_tokens" in done.out, "the options of algorithm and task are there"
    assert "are left out: their prompts are measured on" in done.out and "learning rate 5e-05 (the default for SFT" in done.out
    assert "1,000 heldout prompts" not in done.out


@pytest.mark.slow
def test_a_run_and_what_reads_it(place: Path, tmp_path: Path) -> None:
    done = forked("run", "recipe.toml", "--out", "run", *SMALL, cwd=place)
    assert done.code == 0, done.err
    assert "cost of each stage" in done.out and "rl ends" in done.out
    measured = forked("eval", "run:rl", "--prompts", 3, "--decode", "greedy", "--json", "n.json", cwd=place)
    assert measured.code == 0, measured.err
    (record,) = json.loads((place / "n.json").read_text(encoding="utf-8"))
    assert [set(a) for a in record["answers"]] == [{"prompt", "completion", "score"}] * 3
    kept = [json.loads(line) for line in (place / "run/stages/rl/rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(e["info"]["answer"].startswith("delivery") for e in kept)
    cleaned = forked("clean", "run", cwd=place)
    assert cleaned.code == 0 and cleaned.out.startswith("freed ")
    said: list[Any] = iter(["hello", "", "quit"])  # type: ignore[assignment]
    console = Console(record=True, width=100)
    chat.talk(reopen.open_checkpoint(str(place / "run:rl")), 0.0, 0, console, lambda question: next(said))  # type: ignore[call-overload]
    assert "model:" in console.export_text()
