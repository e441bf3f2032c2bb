"""outdo from Python: what runs, what it gives back, how it goes on, and what is refused. A tiny model, and SmolLM2's tokenizer
with few words: the whole takes seconds to load for every run.

    pytest tests/test_api.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import real
from processes import SCRATCH, forked
from rich.console import Console
from toys import Pays, config, decoder
from transformers import AutoModelForCausalLM, AutoTokenizer

import outdo
from outdo import recipe
from outdo.cli import main as cli
from outdo.errors import UserError
from outdo.models import hf
from outdo.runs import lock
from outdo.system import progress
from outdo.tasks.dataset import Dataset

SIZES = {"width": 16, "depth": 1, "heads": 2, "context": 2048}
ROWS = [{"prompt": f"What is {i} + {i}?", "completion": f" It is {2 * i}.", "answer": str(2 * i)} for i in range(60)]
SAME: dict[str, Any] = {"quiet": True, "threads": 1, "dtype": "fp32"}
SHORT: dict[str, Any] = {**SAME, "max_prompt_tokens": 32, "max_new_tokens": 8}
RL: dict[str, Any] = {**SHORT, "eval_prompts": 4, "steps": 3, "prompts": 3, "group_size": 3, "learning_rate": 1e-2}


def letters(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(sum(c.isalpha() for c in text)) for text in completions]


@pytest.fixture(scope="module")
def base() -> outdo.Result:
    texts, folder = [{"text": f"{r['prompt']}{r['completion']}"} for r in ROWS], SCRATCH / "words"
    words = real.tokenizer().train_new_from_iterator([real.tokenizer().chat_template, *(t["text"] for t in texts)], 500)
    hf.save(decoder(config(vocab_size=len(words))), words, folder)
    return outdo.pretrain(texts, SIZES, tokenizer=str(folder), steps=3, batch_size=4, out=SCRATCH / "base",
                          learning_rate=1e-2, **SAME)


@pytest.fixture(scope="module")
def doer(base: outdo.Result) -> outdo.Result:
    return outdo.reinforce(base, ROWS, letters, out=SCRATCH / "doer", **RL)


def test_import_is_fast() -> None:
    code = "import sys, outdo; assert not {'torch', 'transformers', 'rich'} & set(sys.modules); outdo.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().endswith("AttributeError: module 'outdo' has no attribute 'nothing'"), done.stderr


def test_pretrain(base: outdo.Result) -> None:
    assert base.folder == SCRATCH / "base" and base.stage == "pretrain" and base.summary["players"] == []
    assert [m["step"] for m in base.metrics] == [0, 1, 2] and base.metrics[2]["nll"] < base.metrics[0]["nll"]
    assert [e["decode"] for e in base.evaluations] == ["loss", "loss"], "before and after"
    (loss,) = base.summary["losses"]
    assert 0 < loss["n"] < 10 and loss["change"]["value"] < 0
    assert base.report.is_file() and f"nats a token on {loss['n']} held-out rows, -" in str(base)
    assert recipe.load(base.folder / "recipe.toml").python == ("dataset",)


@pytest.mark.slow
def test_imitate(base: outdo.Result, tmp_path: Path) -> None:
    run = outdo.imitate(base, ROWS, eval_dataset=ROWS[:5], reward=letters, batch_size=20, out=tmp_path / "r", **SHORT)
    assert len(run.metrics) == 3, "one pass"
    assert {p["n"] for p in run.summary["players"]} == {5} and run.summary["players"][0]["metric"] == "gold vs none"


def test_imitate_a_path(base: outdo.Result, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    run = outdo.imitate(base, tmp_path / "rows.jsonl", eval_dataset=ROWS[:5], steps=1, out=tmp_path / "r", **SAME)
    stored = recipe.load(run.folder / "recipe.toml")
    assert {(e["decode"], e["n"]) for e in run.evaluations} == {("loss", 5)}
    assert stored.python == ("eval_dataset",) and getattr(stored.stage["sft"], "data", "") == str(tmp_path / "rows.jsonl")


def test_reinforce(doer: outdo.Result, tmp_path: Path) -> None:
    assert len(doer.metrics) == 3 and {e["decode"] for e in doer.evaluations} == {"sampled", "greedy"}
    for p in doer.summary["players"]:
        assert p["n"] == 4 and p["ci95"][0] <= p["value"] <= p["ci95"][1]
    saved = doer.save(tmp_path / "my-doer")
    assert not (saved / "training_state.pt").exists()
    tokenizer, model = AutoTokenizer.from_pretrained(saved), AutoModelForCausalLM.from_pretrained(saved)
    asked = tokenizer("What is 2", return_tensors="pt")
    theirs = model.generate(**asked, max_new_tokens=6, do_sample=False, eos_token_id=[0, 2], pad_token_id=2)
    assert doer.generate("What is 2", max_new_tokens=6) == [tokenizer.decode(theirs[0, asked.input_ids.shape[1]:],
                                                                            skip_special_tokens=True)]  # fmt: skip
    with pytest.raises(UserError, match="exists; give a folder"):
        doer.save(saved)


def test_generate_many(doer: outdo.Result) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    several = doer.generate(["a", talk, "b c"], max_new_tokens=5, temperature=1.0, seed=1)
    assert len(several) == 3 and doer.generate(talk, max_new_tokens=5, temperature=1.0, seed=2) != []
    assert several == doer.generate(["a", talk, "b c"], max_new_tokens=5, temperature=1.0, seed=1)


def test_what_is_shown_is_escaped(doer: outdo.Result, tmp_path: Path) -> None:
    odd = outdo.Result(tmp_path / "<b>x")
    odd.folder.mkdir()
    (odd.folder / "summary.json").write_text(json.dumps({**doer.summary, "task": "<script>"}), encoding="utf-8")
    shown = odd._repr_html_()
    assert "<b>" not in shown and "<script>" not in shown and "&lt;b&gt;x" in shown and "mean score by the gold judge" in shown


def test_evaluate(doer: outdo.Result) -> None:
    records = outdo.evaluate(doer, ROWS[:7], letters, **SHORT)
    assert [r["decode"] for r in records] == ["sampled", "greedy"] and {r["n"] for r in records} == {7}, "every row"
    greedy = {p: letters(doer.generate([p], max_new_tokens=8))[0] for p in (r["prompt"] for r in ROWS[:7])}
    assert sorted(records[1]["items"]) == sorted(greedy.values())
    assert "mean score" in str(records) and records._repr_html_().startswith("<pre>")


@pytest.mark.slow
def test_the_command_line_does_the_same(base: outdo.Result, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    (tmp_path / "rewards.py").write_text("def letters(completions, **kwargs):\n"
                                         "    return [float(sum(c.isalpha() for c in t)) for t in completions]\n",
        encoding="utf-8")  # fmt: skip
    run = outdo.reinforce(base, tmp_path / "rows.jsonl", f"{tmp_path}/rewards.py:letters", out=tmp_path / "a", **RL)
    done = forked("run", run.folder / "recipe.toml", "--out", tmp_path / "b", cwd=tmp_path)
    assert done.code == 0, done.err
    other = outdo.Result(tmp_path / "b")
    assert run.metrics == other.metrics and run.evaluations == other.evaluations
    assert (run.checkpoint / "model.safetensors").read_bytes() == (other.checkpoint / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_resume(base: outdo.Result, doer: outdo.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Interrupted in its third step, gone on with by the same call: the numbers of the undisturbed run."""
    calls = 0

    def tired(completions: list[str], **kwargs: Any) -> list[float]:
        nonlocal calls
        calls += bool(kwargs["trainer_state"].global_step)
        if calls == 2:
            raise KeyboardInterrupt
        return letters(completions)

    tired.__name__ = "letters"
    folder = tmp_path / "r"
    with pytest.raises(lock.Interrupted, match="resume with: the same call and resume = "):
        outdo.reinforce(base, ROWS, tired, out=folder, **RL, checkpoint_s=1e-9)
    assert not (folder / "stages" / "rl" / "done.json").exists()
    with pytest.raises(UserError, match="was made by another call: seed was 0; resume with the same arguments"):
        outdo.reinforce(base, ROWS, letters, resume=folder, **{**RL, "seed": 1}, checkpoint_s=1e-9)
    monkeypatch.setattr("sys.argv", ["outdo", "run", "--resume", str(folder)])
    with pytest.raises(SystemExit) as refused:
        cli.app_main()
    assert refused.value.code == 2 and "was given its dataset and reward by a call from Python" in capsys.readouterr().err
    run = outdo.reinforce(base, ROWS, letters, resume=folder, **RL, checkpoint_s=1e-9)
    assert run.metrics == doer.metrics and run.evaluations == doer.evaluations


@pytest.mark.slow
def test_environments_bring_their_reward(base: outdo.Result) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"Go {i}"}], "bonus": i / 4} for i in range(5)]
    with pytest.raises(UserError, match="max_prompt_tokens = 40 leaves out 5"):
        outdo.evaluate(base, rows, environment_factory=Pays, **{**SHORT, "max_prompt_tokens": 40})  # with the tools'
    records = outdo.evaluate(base, rows, environment_factory=Pays, decode=["greedy"],
                             **{**SHORT, "max_prompt_tokens": 1000})  # fmt: skip
    assert sorted(records[0]["items"]) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_tasks_and_judges_by_name(tmp_path: Path) -> None:
    """Chess from random weights: a task by its name or its table, its own judge, recipe keys as keywords."""
    task = {"name": "chess_endgame", "material": "KQK", "max_moves": 6, "min_plies": 3}
    run = outdo.reinforce({"width": 16, "depth": 1, "heads": 2}, task, reward="random_reward",
                          steps=1, prompts=2, group_size=2, out=tmp_path / "r", minibatch_tokens=64,
                          evaluation={"prompts": 4, "opponents": ["random"]}, optimizer={"lr": 1e-3}, **SAME)  # fmt: skip
    stored = recipe.load(run.folder / "recipe.toml")
    assert (stored.judge.name, stored.gold.name, stored.python) == ("random_reward", "outcome", ())
    assert stored.stage["rl"].optimizer.lr == 1e-3 and stored.evaluation.points == 1
    assert {p["extra"]["opponent"] for p in run.summary["players"]} == {"random"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda base: outdo.reinforce(base, ROWS, quiet=True), "rows alone say nothing about what is good; give reward"),
    (lambda base: outdo.reinforce(base, [], letters, quiet=True), "data 'list' has no rows"),
    (lambda base: outdo.reinforce(base, ROWS, letters, grop_size=3, quiet=True), "unknown argument grop_size"),
    (lambda base: outdo.reinforce(base, ROWS, letters, **{**SHORT, "max_new_tokens": 0}), "max_new_tokens = 0: Input should be"),
    (lambda base: outdo.reinforce(base, "chess_endgame", tools=[len]), "tools and environment_factory go with rows"),
    (lambda base: outdo.reinforce(base, Dataset.of(ROWS), letters, system="x"), "a task object has its options already"),
    (lambda base: outdo.reinforce("nowhere/at/all", ROWS, letters, quiet=True), "does not exist; a checkpoint is"),
    (lambda base: outdo.imitate(base, "chess_endgame"), "a player never runs out of episodes"),
    (lambda base: outdo.imitate(base, ROWS, eval_dataset=[{"prompt": "p"}], quiet=True),
     "eval_dataset from Python: none of the first 1 rows"),
    (lambda base: outdo.pretrain(ROWS, SIZES, quiet=True), "or name model.tokenizer"),
    (lambda base: outdo.evaluate(SIZES, ROWS, letters), "sizes alone have learned nothing"),
    (lambda base: outdo.evaluate(base, ROWS, letters, decode=["gredy"]), "there is sampled, greedy"),
])  # fmt: skip
def test_bad_calls(base: outdo.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call(base)
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_notebooks_get_lines_where_rich_cannot_draw() -> None:
    """Without ipywidgets rich would only warn; in a terminal and with them it draws."""
    assert not progress._live_output(Console(force_jupyter=True, force_terminal=False)) or "ipywidgets" in sys.modules
    assert progress._live_output(Console(force_terminal=True))
    assert not progress._live_output(Console(force_terminal=True, quiet=True))


@pytest.mark.slow
def test_a_reward_that_teaches_nothing_stops_until_forced(base: outdo.Result, tmp_path: Path) -> None:
    def zero(completions: list[str], **kwargs: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(UserError, match=r"rl cannot learn: 3 prompts x 3 samples all scored 0, and .* were cut"):
        outdo.reinforce(base, ROWS, zero, out=tmp_path / "r", **RL)
    run = outdo.reinforce(base, ROWS, zero, resume=tmp_path / "r", force=True, **RL)
    assert len(run.metrics) == 3
