"""The look before a stage that learns from scores: what it sees, when it stops a run, and that it changes nothing.

    pytest tests/stages/test_preflight.py
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folders import weights
from processes import SCRATCH, TINY, forked, lines

from outdo import recipe
from outdo.algorithms.grpo import Grpo
from outdo.stages.common.preflight import describe, nothing_to_learn
from outdo.stages.rejection import Rejection
from outdo.stages.rl import Rl
from outdo.system import files
from outdo.types import Finish, Group, Prompt, Score, Trajectory

QUICK = [part for option in ("stage.sft.steps=2", "stage.rl.steps=3", "evaluation.prompts=2", "checkpoint_s=60")
         for part in ("--set", option)]  # fmt: skip
HOPELESS = [*QUICK, "--set", "stage.rl.judge.name=outcome"]  # a model this small never mates


@functools.cache
def undisturbed() -> Path:
    done = forked("run", TINY, *QUICK, "--out", SCRATCH / "preflight", cwd=SCRATCH)
    assert done.code == 0, done.err
    return SCRATCH / "preflight"


def group(values: Sequence[float | None], cut: int = 0, prompt: int = 3, silent: int = 0) -> Group:
    mask = np.arange(prompt + 4) >= prompt
    games = [Trajectory("p/0", i, np.arange(len(mask)), mask, np.zeros(len(mask), np.float32), 0,
                        Finish.LENGTH if i < cut else Finish.STOP) for i in range(len(values))]  # fmt: skip
    return Group(Prompt("p/0", np.arange(prompt)), tuple(games),
                 tuple(Score(v, "why", {"a": v}, answered=i >= silent) for i, v in enumerate(values)))


def loop(stage: Any, template: str | None = None) -> Any:
    return SimpleNamespace(config=stage, algorithm=Grpo(), run=SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template)))


RL, REJECTION = Rl.Config(kind="rl", steps=1), Rejection.Config(kind="rejection", steps=1, threshold=0.5)


@pytest.mark.parametrize(("stage", "groups", "want"), [
    (RL, [group([0, 0]), group([0, 1])], None),
    (RL, [group([0, 0]), group([0, 0])], "2 prompts x 2 samples all scored 0; imitate good answers first"),
    (RL, [group([1, 1]), group([0, 0])], "2 prompts x 2 samples scored the same within every group; imitate"),
    (RL, [group([0, 0], cut=2), group([0, 0], cut=1)], "all scored 0, and 75% were cut before their end; give more room"),
    (RL, [group([0, 0], silent=1)], "all scored 0, and only 50% held an answer that the judge can read; say in"),
    (RL, [group([None, None])], "the judge could score none of 1 prompts x 2 samples (2 times: why); mend the judge"),
    (RL, [group([None, 1])], "1 prompts x 2 samples all scored 1"),
    (REJECTION, [group([0.4, 0.1])], "none of 1 prompts x 2 samples reached threshold = 0.5, the best scored 0.4; lower it, "),
    (REJECTION, [group([0.5, 0.5])], None),
])  # fmt: skip
def test_nothing_to_learn(stage: Any, groups: list[Group], want: str | None) -> None:
    said = nothing_to_learn(loop(stage), groups)
    assert said == want if want is None else said is not None and want in said


def test_describe() -> None:
    got = describe([group([1, 0, None, 0.5], cut=1), replace(group([2, 2, 2, 2]), prompt=Prompt("p/1", np.arange(9)))])
    assert got["prompts"] == 2 and got["samples"] == 8 and got["truncated"] == 1 / 8 == got["unscored"]
    assert got["reward"] == pytest.approx(9.5 / 7) == got["reward_parts"]["a"] and got["zero_variance_groups"] == 0.5
    assert got["reward_std_within_groups"] == pytest.approx(np.std([1, 0, 0.5]) / 2)
    assert got["format_pass_rate"] == 7 / 8, "who has no score was not read"
    assert describe([group([0, 0, None, 1], silent=1)])["format_pass_rate"] == 0.5
    assert got["prompt_tokens"] == {"median": 6.0, "longest": 9} and got["tokens_per_episode"] == 4.0


@pytest.mark.slow
def test_it_sees_what_the_first_step_will_see() -> None:
    stage = undisturbed() / "stages" / "rl"
    seen, first = files.read_json(stage / "preflight.json"), lines(stage / "metrics.jsonl")[0]
    assert seen["stop"] is None and seen["samples"] == 16
    for key in ("reward", "zero_variance_groups", "tokens_per_episode"):
        assert seen[key] == pytest.approx(first[key]), key
    assert seen["unscored"] == 0 and seen["format_pass_rate"] == 1 and all(v > 0 for v in seen["memory_bytes"].values())
    assert all(v > 0 for v in seen["step_s"].values())
    (event,) = [e for e in lines(stage / "ledger.jsonl") if e["what"] == "preflight"]
    assert event["decode_tokens"] > 0 and event["wall_s"] > 0, "booked, beside the budget"
    summary = files.read_json(undisturbed() / "summary.json")["ledger"]["rl"]
    assert summary["overhead_wall_s"] > event["wall_s"]


@pytest.mark.slow
def test_a_hopeless_run_is_stopped_until_forced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = forked("run", TINY, *HOPELESS, "--out", folder, cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1
    assert done.err.startswith("outdo: error: stage rl cannot learn: 4 prompts x 4 samples all scored 0")
    assert "pre-flight of rl: 4 prompts, 16 samples" in done.out and "no difference in 100% of the groups" in done.out
    assert "all scored 0" in files.read_json(folder / "stages" / "rl" / "preflight.json")["stop"]
    assert not (folder / "stages" / "rl" / "metrics.jsonl").exists() and (folder / "stages" / "sft" / "done.json").exists()
    assert forked("run", "--resume", folder, cwd=tmp_path).code == 2, "it looks again: the judge may have been mended"
    done = forked("run", "--resume", folder, "--force", cwd=tmp_path)
    assert done.code == 0 and "warning: 4 prompts x 4 samples all scored 0" in done.out, done.err
    assert recipe.load(folder / "recipe.toml").stage["rl"].model_dump()["allow_no_signal"]


@pytest.mark.slow
def test_a_control_allow_no_signal(tmp_path: Path) -> None:
    done = forked("run", TINY, *HOPELESS, "--set", "stage.rl.allow_no_signal=true", "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_killed_in_the_middle_of_it(tmp_path: Path) -> None:
    """Once before and once after it was kept: the run is the undisturbed one, and has one preflight.json."""
    folder = tmp_path / "run"
    assert forked("run", TINY, *QUICK, "--out", folder, cwd=tmp_path, kill=("rl/.preflight", 1)).code == -signal.SIGKILL
    assert not (folder / "stages" / "rl" / "preflight.json").exists()
    assert forked("run", "--resume", folder, cwd=tmp_path, kill=("rl/evaluations", 1)).code == -signal.SIGKILL
    assert files.read_json(folder / "stages" / "rl" / "preflight.json")["stop"] is None
    assert forked("run", "--resume", folder, cwd=tmp_path).code == 0
    assert weights(folder, "rl") == weights(undisturbed(), "rl")
    looks = [e for e in lines(folder / "stages" / "rl" / "ledger.jsonl") if e["what"] == "preflight"]
    assert [bool(e.get("redone")) for e in looks] == [True, True], "booked twice: paid for twice"


def test_the_endgames_run_unattended() -> None:
    endgames = recipe.load(Path(__file__).parents[2] / "recipes" / "endgames.toml")
    may = {n for n, s in endgames.stage.items() if getattr(s, "allow_no_signal", False)}
    assert may == {"rl_no_imitation", "rl_from_scratch"}
    assert all(getattr(s, "allow_no_signal", True) for s in recipe.forced(endgames).stage.values())


def test_bare_prompts_to_a_chat_model_are_named_as_the_likely_cause() -> None:
    """Whatever else the samples look like: a chat model that is given strings rarely answers."""
    bare = [replace(g, prompt=replace(g.prompt, row={"prompt": "2+2?"})) for g in (group([0, 0], cut=2), group([0, 0]))]
    said = nothing_to_learn(loop(RL, "{{ messages }}"), bare)
    assert said is not None and "bare strings" in said and "task.chat = true" in said
    assert "bare strings" not in (nothing_to_learn(loop(RL), bare) or "")
    asked = [replace(g, prompt=replace(g.prompt, row={"prompt": [{"role": "user"}]})) for g in bare]
    assert "bare strings" not in (nothing_to_learn(loop(RL, "{{ messages }}"), asked) or "")
