"""Every way to learn, once, in one small recipe: answers that end in "yes" are wanted. And killed runs with a moving reference.

Run: .venv/bin/python -m pytest tests/stages/test_ways_to_learn.py   (about 50 s on one core)
"""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real
import torch
from folders import weights
from processes import forked, lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from outdo.judges.reward_model import RewardModel
from outdo.types import Finish, Trajectory

pytestmark = pytest.mark.slow

WORDS = ["red", "blue", "green", "cat", "dog", "sun", "moon", "tree", "car", "boat"]
HEAD = """
name = "ways"
threads = 1
dtype = "fp32"
task = {{ name = "dataset", data = "prompts.jsonl", max_new_tokens = 8 }}
judge = {{ name = "function", functions = ["judges.py:yes"] }}
model = {{ width = 64, depth = 2, heads = 4, context = 64, tokenizer = "{tokenizer}" }}
evaluation = {{ prompts = 16, points = 1 }}
[stage.sft]
kind = "sft"
data = "sft.jsonl"
epochs = 4
episodes = 32
optimizer = {{ lr = 3e-3 }}
"""
STAGES: dict[str, str] = {
    "rm": 'kind = "reward_model"\ndata = "pairs.jsonl"\nepisodes = 16\nalgorithm = { name = "bradley_terry", centring = 0.01 }\n'
          'optimizer = { lr = 1e-3 }',
    "dpo": 'kind = "preference"\ndata = "pairs.jsonl"\nepisodes = 16\nepochs = 2\noptimizer = { lr = 1e-3 }',
    "ipo": 'kind = "preference"\ndata = "pairs.jsonl"\nepisodes = 16\nalgorithm = { name = "ipo" }\noptimizer = { lr = 1e-3 }',
    "simpo": 'kind = "preference"\ndata = "pairs.jsonl"\nepisodes = 16\nalgorithm = { name = "simpo" }\n'
             'optimizer = { lr = 1e-3 }',
    "orpo": 'kind = "preference"\ndata = "pairs.jsonl"\nepisodes = 16\nalgorithm = { name = "orpo", beta = 1.0 }\n'
            'optimizer = { lr = 3e-3 }',
    "kto": 'kind = "preference"\ndata = "labelled.jsonl"\nepisodes = 32\nalgorithm = { name = "kto" }\noptimizer = { lr = 1e-3 }',
    "filtered": 'kind = "sft"\ndata = "sft.jsonl"\nepochs = 4\njudge = { name = "function", functions = ["judges.py:yes"] }\n'
                'optimizer = { lr = 2e-3 }',
    "best": 'kind = "rejection"\nkeep = "best"\nsample_from = "start"\nprompts = 8\ngroup_size = 8\nsteps = 20\n'
            'optimizer = { lr = 1e-3 }',
    "online_dpo": 'kind = "rl"\nalgorithm = { name = "dpo" }\nprompts = 8\ngroup_size = 8\nsteps = 15\noptimizer = { lr = 1e-3 }',
    "ppo": 'kind = "rl"\nalgorithm = { name = "ppo" }\nprompts = 32\ngroup_size = 1\nsteps = 20\nallow_no_signal = true\n'
           'optimizer = { lr = 1e-3 }',
    "ppo_model": 'kind = "rl"\nalgorithm = { name = "ppo", critic = "model" }\nprompts = 32\ngroup_size = 1\nsteps = 20\n'
                 'allow_no_signal = true\noptimizer = { lr = 1e-3 }',
    "judged": 'kind = "rl"\njudge = { name = "sum", parts = [{ judge = "reward_model", model = "stage:rm" }] }\nprompts = 8\n'
              'group_size = 8\nsteps = 3\noptimizer = { lr = 1e-3 }',
    "distilled": 'kind = "distill"\nteacher = "stage:online_dpo"\nsteps = 20\nprompts = 16\noptimizer = { lr = 1e-3 }',
    "taught": 'kind = "distill"\nteacher = "stage:online_dpo"\nsamples_of = "teacher"\nsteps = 20\nprompts = 16\n'
              'algorithm = { name = "distillation", divergence = "forward", top_k = 20 }\noptimizer = { lr = 1e-3 }',
}  # fmt: skip


def write(folder: Path, stages: dict[str, str]) -> Path:
    rng = random.Random(0)

    def some(n: int) -> str:
        return " ".join(rng.choices(WORDS, k=n))

    def put(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    put("prompts.jsonl", [{"prompt": f"{some(3)} {i}"} for i in range(120)])
    put("sft.jsonl", [{"prompt": some(3), "completion": f" {some(2)} {rng.choice(['yes', 'no'])}"} for _ in range(300)])
    pairs = [{"prompt": some(3), "chosen": f" {some(2)} yes", "rejected": f" {some(2)} no"} for _ in range(300)]
    put("pairs.jsonl", pairs)
    put("labelled.jsonl", [{"prompt": p["prompt"], "completion": p[k], "label": k == "chosen"} for p in pairs
                           for k in ("chosen", "rejected")])  # fmt: skip
    (folder / "judges.py").write_text("def yes(completions, **kwargs):\n    return [float('yes' in c) for c in completions]\n",
                                      encoding="utf-8")
    text = HEAD.format(tokenizer=real.smollm2()) + "".join(
        f"[stage.{name}]\nfrom = \"sft\"\n{options}\n" for name, options in stages.items())
    (folder / "ways.toml").write_text(text, encoding="utf-8")
    return folder / "ways.toml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways")
    done = forked("run", write(folder, STAGES), "--out", folder / "run", cwd=folder)
    assert done.code == 0, done.err
    return folder / "run"


def score(run: Path, stage: str) -> float:
    rows = lines(run / "stages" / stage / "evaluations.jsonl")
    return float(next(r["value"] for r in rows if r["last"] and r["decode"] == "sampled"))


@pytest.mark.parametrize("stage", ["orpo", "online_dpo", "ppo", "ppo_model", "distilled", "taught"])
def test_it_learns_what_is_wanted(run: Path, stage: str) -> None:
    assert score(run, stage) >= score(run, "sft") + 0.2


@pytest.mark.parametrize("stage", ["filtered", "best"])
def test_imitating_what_is_wanted_does_not_hurt(run: Path, stage: str) -> None:
    """16 prompts cannot tell more of so little training."""
    assert score(run, stage) >= score(run, "sft") and all(m["episodes"] > 0 or m.get("kept", 1) for m in
                                                          lines(run / "stages" / stage / "metrics.jsonl") if "episodes" in m)


def test_kto_moves_towards_good_answers(run: Path) -> None:
    """Away from bad ones, too; at this learning rate samples become worse all the same, so nothing is said of them."""
    first, *_, last = lines(run / "stages" / "kto" / "metrics.jsonl")
    assert first["loss"] == pytest.approx(0.5, abs=1e-4) and last["loss"] < 0.46 and last["margin"] > 0.1


@pytest.mark.parametrize("stage", ["rm", "dpo", "ipo", "simpo", "orpo", "kto"])
def test_held_out_pairs_are_told_apart(run: Path, stage: str) -> None:
    rows = lines(run / "stages" / stage / "heldout.jsonl")
    if stage == "kto":  # single answers are no pairs
        assert rows == []
        return
    assert rows[-1]["last"] and rows[-1]["value"] >= 0.9 and rows[-1]["ci95"][0] > 0.5
    if stage == "rm":
        assert rows[0]["value"] == 0.5 and rows[-1]["auc"] >= 0.9 and rows[-1]["calibration_error"] < 0.5


def test_a_reward_model_is_transformers_own(run: Path) -> None:
    """The classifier in the checkpoint, opened by transformers, gives what the judge gives; it is no policy and is not tried."""
    (folder,) = (run / "stages" / "rm" / "checkpoints").glob("*/reward_model")
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    judge = RewardModel(RewardModel.Config(model=f"{run}:rm"))
    for text in (" cat dog yes", " cat dog no"):
        logit = model(**tokenizer("sun moon car" + text, return_tensors="pt", add_special_tokens=False)).logits.item()
        ids = tokenizer("sun")["input_ids"]
        t = Trajectory("p", 0, np.array([*ids, *ids]), np.array([False] * len(ids) + [True] * len(ids)),
                       np.zeros(2 * len(ids), np.float32), 0, Finish.STOP, {"prompt": "sun moon car", "completion": text})
        assert judge.score([t])[0].value == pytest.approx(logit, abs=1e-4)
    assert not lines(run / "stages" / "rm" / "evaluations.jsonl")
    head = torch.load(folder.parent / "training_state.pt", weights_only=True)["critic"]
    assert float(head["bias"]) == 0.0, "transformers' class has none, so training must not use one"
    both = RewardModel(RewardModel.Config(models=(f"{run}:rm", f"{run}:rm"), combine="uncertain")).score([t])[0]
    assert both.value == pytest.approx(logit, abs=1e-4) and len(both.parts) == 2


def test_a_critic_of_its_own_learns_and_is_paid_for(run: Path) -> None:
    of = {stage: lines(run / "stages" / stage / "metrics.jsonl") for stage in ("ppo", "ppo_model")}
    bill = {stage: [e for e in lines(run / "stages" / stage / "ledger.jsonl") if e["what"] == "train"] for stage in of}
    assert of["ppo_model"][-1]["value_error"] < of["ppo_model"][0]["value_error"]
    assert all("critic_grad_norm" in m for m in of["ppo_model"]) and not any("critic_grad_norm" in m for m in of["ppo"])
    first, plain = bill["ppo_model"][0], bill["ppo"][0]
    assert plain["reference_flops"] == 0.0 < first["reference_flops"] < first["update_flops"] / 3
    seen = {stage: json.loads((run / "stages" / stage / "preflight.json").read_text(encoding="utf-8")) for stage in of}
    for what in ("weights", "optimizer"):
        assert seen["ppo_model"]["memory_bytes"][what] == pytest.approx(2 * seen["ppo"]["memory_bytes"][what], rel=1e-3)


def test_a_judge_that_is_a_stage_scores(run: Path) -> None:
    rewards = [m["reward"] for m in lines(run / "stages" / "judged" / "metrics.jsonl")]
    assert len(rewards) == 3 and len(set(rewards)) == 3
    bill = lines(run / "stages" / "judged" / "ledger.jsonl")
    assert sum(e["judge_flops"] for e in bill if e["what"] == "train") > 0


def test_a_distilled_student_agrees_with_its_teacher(run: Path) -> None:
    first, *_, last = lines(run / "stages" / "distilled" / "metrics.jsonl")
    assert last["divergence"] < 0.5 * first["divergence"] and last["agreement"] > first["agreement"]


MOVING = {"rl": 'kind = "rl"\nprompts = 4\ngroup_size = 8\nsteps = 8\nmask_truncated = true\ndynamic_sampling = 1\n'
                'importance = "truncate"\nalgorithm = { name = "grpo", kl = 0.1, kl_target = 0.05, entropy = 0.01, '
                'reference_every = 3 }\noptimizer = { lr = 1e-3 }'}  # fmt: skip


@pytest.mark.parametrize("optimizer", ['{ lr = 1e-3 }', '{ kind = "muon", lr = 1e-3 }'], ids=["adamw", "muon"])
def test_a_critic_of_its_own_is_resumed(optimizer: str, tmp_path: Path) -> None:
    recipe = write(tmp_path, {"rl": 'kind = "rl"\nprompts = 4\ngroup_size = 4\nsteps = 6\nsample_from = "start"\n'
                                    'algorithm = { name = "gae", critic = "model" }\noptimizer = ' + optimizer})
    often = ["--set", "checkpoint_s=0.01"]
    assert forked("run", recipe, *often, "--out", tmp_path / "whole", cwd=tmp_path).code == 0
    died = forked("run", recipe, *often, "--out", tmp_path / "killed", cwd=tmp_path, kill=("rl/checkpoints/4", 1))
    assert died.code == -signal.SIGKILL
    done = forked("run", "--resume", tmp_path / "killed", cwd=tmp_path)
    assert done.code == 0, done.err
    assert weights(tmp_path / "killed", "rl") == weights(tmp_path / "whole", "rl")
    a, b = (lines(tmp_path / name / "stages" / "rl" / "metrics.jsonl") for name in ("whole", "killed"))
    assert a == b and len({m["value_error"] for m in a}) == 6


def test_a_moving_reference_and_an_adaptive_coefficient_are_resumed(tmp_path: Path) -> None:
    recipe = write(tmp_path, MOVING)
    often = ["--set", "checkpoint_s=0.01"]
    assert forked("run", recipe, *often, "--out", tmp_path / "whole", cwd=tmp_path).code == 0
    for n in ("4", "6"):
        died = forked("run", recipe, *often, "--out", tmp_path / f"killed{n}", cwd=tmp_path, kill=(f"rl/checkpoints/{n}", 1))
        assert died.code == -signal.SIGKILL
        done = forked("run", "--resume", tmp_path / f"killed{n}", cwd=tmp_path)
        assert done.code == 0, done.err
        assert weights(tmp_path / f"killed{n}", "rl") == weights(tmp_path / "whole", "rl")
    metrics = lines(tmp_path / "whole" / "stages" / "rl" / "metrics.jsonl")
    assert len({m["kl_coefficient"] for m in metrics}) > 2 and all("entropy_bonus" in m for m in metrics)


@pytest.mark.parametrize(("stage", "why"), [
    ('kind = "preference"\nsteps = 1', "has no data"), ('kind = "preference"\ndata = "sft.jsonl"', "chosen and rejected"),
    ('kind = "preference"\ndata = "same.jsonl"', "row 0: chosen and rejected are the same"),
    ('kind = "preference"\ndata = "pairs.jsonl"\nalgorithm = { name = "grpo" }', "does not learn from preferences"),
    ('kind = "reward_model"\ndata = "pairs.jsonl"\nmargin = "lead"', "column lead holds None"),
    ('kind = "rl"\ngroup_size = 1\nsteps = 1', "compares the samples of a prompt"),
    ('kind = "rl"\nsteps = 1\njudge = { name = "reward_model", model = "stage:none" }', "no stage is called so"),
    ('kind = "distill"\nsteps = 1', "has no teacher"), ('kind = "sft"\ndata = "sft.jsonl"\nweights = "w"', "column w holds None"),
    ('kind = "rl"\nsteps = 1\nalgorithm = { name = "sft" }', "does not learn from scores"),
    ('kind = "rl"\nsteps = 1\nsample_from = "start"\nalgorithm = { name = "grpo", kl = 0.1, reference_every = 2 }', "leave out"),
    (
        'kind = "rl"\nsteps = 1\njudge = { name = "sum", parts = [{ judge = "reward_model", model = "stage:x" }] }',
        "the stages x wait",
    ),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path: Path, stage: str, why: str) -> None:
    recipe = write(tmp_path, {"x": stage})
    (tmp_path / "same.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n', encoding="utf-8")
    done = forked("run", recipe, "--set", "stage.sft.steps=1", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.code == 2 and why in done.err and done.err.startswith("outdo: ") and done.err.strip().count("\n") == 0, done.err


def test_two_stages_learn_from_the_same_pairs_of_own_samples(tmp_path: Path) -> None:
    """A reward model and DPO on a game: pairs once sampled, of games that the judge tells apart, kept for a resume."""
    more = 'from = "pretrain"\nsteps = 3\nepisodes = 8\npairs = 20\njudge = { name = "random_reward" }\n'
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'''name = "pairs"
threads = 1
task = {{ name = "chess_endgame", material = "KQK", max_moves = 3, min_plies = 1 }}
evaluation = {{ prompts = 4, points = 1 }}
model = {{ width = 16, depth = 1, heads = 2 }}
[stage.pretrain]
kind = "pretrain"
steps = 30
player = "random"
episodes = 16
optimizer = {{ lr = 0.01 }}
[stage.rm]
kind = "reward_model"
{more}
[stage.dpo]
kind = "preference"
{more}
[stage.rl]
kind = "rl"
from = "pretrain"
steps = 1
prompts = 4
group_size = 4
judge = {{ name = "reward_model", model = "stage:rm" }}
''', encoding="utf-8")  # fmt: skip
    run = tmp_path / "run"
    done = forked("run", recipe, "--out", run, cwd=tmp_path)
    assert done.code == 0, done.err
    rm, dpo = (lines(run / "stages" / n / "pairs.jsonl") for n in ("rm", "dpo"))
    assert rm == dpo and len(rm) == 1 + 20 + 50 and rm[0]["judge_calls"] >= 140
    assert all(len(r["tokens"][0]) == len(r["mask"][0]) and r["tokens"][0] != r["tokens"][1] for r in rm[1:])
    ledger = lines(run / "stages" / "rm" / "ledger.jsonl")
    assert next(r for r in ledger if r["what"] == "train")["judge_calls"] == rm[0]["judge_calls"], "collecting is charged"
    (held,) = lines(run / "stages" / "rm" / "heldout.jsonl")[-1:]
    assert held["n"] == 50 and "gold_accuracy" not in held, "the gold judge calls all of these games lost"
    step = lines(run / "stages" / "rl" / "metrics.jsonl")[0]
    assert step["unscored"] == 0.0 and step["reward"] != 0.0, "the reward model reads the games' tokens"


@pytest.mark.parametrize(("stage", "why"), [
    ('kind = "reward_model"\nsteps = 1', "has no data"), ('kind = "preference"\npairs = 5\ndata = "same.jsonl"', "leave out one"),
    ('kind = "preference"\ndata = "pairs.jsonl"\njudge = { name = "length" }', "set pairs, or leave it out"),
    ('kind = "preference"\npairs = 5\njudge = { name = "exact_match", column = "nothing" }\nsteps = 1', "scored"),
])  # fmt: skip
def test_pairs_that_cannot_be_made_are_one_line(tmp_path: Path, stage: str, why: str) -> None:
    recipe = write(tmp_path, {"x": stage})
    done = forked("run", recipe, "--set", "stage.sft.steps=1", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.code == 2 and why in done.err and len(done.err.strip().splitlines()) < 4
