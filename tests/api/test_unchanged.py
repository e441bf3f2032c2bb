"""What users of other tools already have, given to outdo as it is: whole runs of a tiny model with a real tokenizer.

    pytest tests/test_unchanged.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import reward_models
from processes import SCRATCH, forked
from toys import Pays
from transformers import AutoModelForSequenceClassification

import outdo
from outdo import recipe
from outdo.errors import UserError
from outdo.system import files

pytestmark = pytest.mark.slow  # whole runs

SIZES = {"width": 16, "depth": 1, "heads": 2, "context": 64}
ROWS = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(60)]
SHORT: dict[str, Any] = {"quiet": True, "threads": 1, "dtype": "fp32", "max_prompt_tokens": 32, "max_new_tokens": 8}
RL: dict[str, Any] = {**SHORT, "eval_prompts": 4, "steps": 2, "prompts": 3, "group_size": 3, "learning_rate": 1e-2}


def letters(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(sum(c.isalpha() for c in text)) for text in completions]


@pytest.fixture(scope="module")
def base() -> outdo.Result:
    return outdo.pretrain([{"text": r["prompt"]} for r in ROWS], SIZES, tokenizer="smollm2", steps=3, batch_size=4,
                          out=SCRATCH / "unchanged", learning_rate=1e-2, quiet=True, threads=1, dtype="fp32")


def test_reward_models_among_functions(base: outdo.Result, tmp_path: Path) -> None:
    """As in reward_funcs: by folder the run can be repeated from its recipe, as an object it cannot; the numbers are the same."""
    path = str(reward_models.folder())
    run = outdo.reinforce(base, ROWS, [letters, path], reward_weights=[0.1, 1.0], out=tmp_path / "a", **RL)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    same = outdo.reinforce(base, ROWS, [letters, model], reward_weights=[0.1, 1.0], out=tmp_path / "b", **RL)
    assert run.metrics == same.metrics
    events = list(files.read_lines(run.folder / "stages" / "rl" / "ledger.jsonl"))
    spent = {what: sum(e["judge_flops"] for e in events if e["what"] == what) for what in ("train", "evaluate", "preflight")}
    assert all(v > 0 for v in spent.values()) and run.summary["ledger"]["rl"]["flops"]["judge"] == spent["train"]
    alone = outdo.reinforce(base, ROWS, path, out=tmp_path / "c", **{**RL, "steps": 1})
    stored = recipe.load(alone.folder / "recipe.toml")
    assert stored.judge.options["functions"] == [path] and stored.python == ("dataset",)


def test_relative_paths_are_found_from_anywhere(base: outdo.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir(), away.mkdir()
    (home / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    (home / "rewards.py").write_text("def letters(completions, **kwargs):\n"
                                     "    return [float(sum(c.isalpha() for c in t)) for t in completions]\n",
        encoding="utf-8")  # fmt: skip
    (home / "dataset").mkdir()  # a folder called like a plug-in is not that plug-in
    monkeypatch.chdir(home)
    run = outdo.reinforce(base, "rows.jsonl", "rewards.py:letters", out="run", **RL)
    whole = home / "run"
    (whole / "stages" / "rl" / "done.json").unlink()
    (whole / "summary.json").unlink()
    done = forked("run", "--resume", whole, cwd=away)
    assert done.code == 0, done.err
    assert outdo.Result(whole).evaluations == run.evaluations


def test_environments_are_chosen_by_rows_and_pay_beside_the_reward(tmp_path: Path) -> None:
    """As in TRL: what environments pay has weight 1 beside reward_funcs; `environment` of a row names its own."""
    rows = [{"prompt": [{"role": "user", "content": f"Go {i}"}], "bonus": i / 4, "environment": "pays"} for i in range(4)]

    def two(completions: list[Any], **kwargs: Any) -> list[float]:
        return [2.0] * len(completions)

    options: dict[str, Any] = {**SHORT, "max_prompt_tokens": 400, "decode": ["greedy"], "environment_factory": {"pays": Pays}}
    for reward, weights, want in ((None, (), 0.0), (two, (), 2.0), (two, [0.5], 1.0), ([two, two], (), 4.0)):
        (record,) = outdo.evaluate("smollm2", rows, reward, reward_weights=weights, **options)
        assert sorted(record["items"]) == [want + i / 4 for i in range(4)]


def play(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    return {**trainer.generate(prompts), "turns": [1] * len(prompts)}


def test_rollout_func(base: outdo.Result, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The user's own generation: with the engine's samples the numbers of a run without it, from Python and from a recipe."""

    def reward(completions: list[str], turns: list[int] = (), **kwargs: Any) -> list[float]:  # type: ignore[assignment]
        assert not given or turns == [1] * len(completions)
        return letters(completions)

    given = False
    plain = outdo.reinforce(base, ROWS, reward, out=tmp_path / "a", **RL)
    given = True
    mine = outdo.reinforce(base, ROWS, reward, rollout_func=play, out=tmp_path / "b", **{**RL, "quiet": False})
    assert "rollout_func: its trainer is a stand-in with processing_class, args" in " ".join(capfd.readouterr().out.split())
    assert plain.metrics == mine.metrics and plain.evaluations == mine.evaluations
    assert recipe.load(mine.folder / "recipe.toml").python == ("dataset", "rollout_func", "reward")
    named = outdo.reinforce(base, ROWS, reward, rollout_func=f"{__file__}:play", out=tmp_path / "c", **RL)
    assert named.metrics == mine.metrics
    with pytest.raises(UserError, match="rollout goes with tasks of text without tools"):
        outdo.reinforce(base, ROWS, reward, rollout_func=play, tools=[Pays().look],
                        **{**RL, "max_prompt_tokens": 400})
