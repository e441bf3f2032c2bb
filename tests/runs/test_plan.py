"""What the plan and the pre-flight say of a step, against the bill of a run whose samples share long prompts.

    pytest tests/test_plan.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import SCRATCH, lines
from toys import decoder, tokenizer

import outdo
from outdo import recipe
from outdo.models import hf
from outdo.models.flops import forward_flops, update_flops
from outdo.stages.common import estimates
from outdo.stages.rl import Rl
from outdo.system import environment, files, machine
from outdo.tasks.dataset import Dataset

TOLERANCE = 0.15  # of the bill: the plan knows mean lengths, chance deals groups out, and a group shares its first logits
ROWS = [{"prompt": " ".join(f"w{3 + (i * j) % 26}" for j in range(30 + i % 7))} for i in range(20)]
GROUP = 6


def words(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


@pytest.fixture(scope="module", params=[1_000, 48], ids=["one minibatch", "four minibatches"])
def folder(request: pytest.FixtureRequest) -> Path:
    base = SCRATCH / "plan-base"
    hf.save(decoder(), tokenizer(29), base)
    run = outdo.reinforce(base, ROWS, words, steps=3, prompts=4, group_size=GROUP, max_prompt_tokens=40, max_new_tokens=10,
                          minibatch_tokens=request.param, learning_rate=1e-6, eval_prompts=0, quiet=True, threads=1, dtype="fp32",
                          out=SCRATCH / f"plan-{request.param}")  # fmt: skip
    return run.folder


def bills(folder: Path) -> list[dict[str, Any]]:
    return [e for e in lines(folder / "stages" / "rl" / "ledger.jsonl") if e["what"] == "train"]


def test_a_step_costs_what_was_planned(folder: Path) -> None:
    """Given how long the samples became, which nobody can know before."""
    (stage,), model = recipe.load(folder / "recipe.toml").stage.values(), hf.load(outdo.Result(folder).checkpoint)
    assert isinstance(stage, Rl.Config)
    prompts = [len(r["prompt"].split()) for r in ROWS]
    own = float(np.mean([m["tokens_per_episode"] for m in lines(folder / "stages" / "rl" / "metrics.jsonl")]))
    typical = estimates.mean_length([n + round(own) for n in prompts], [own], prompts)
    step = Rl(stage).estimate(estimates.Estimates(Dataset.of(ROWS), model, typical))
    assert all(e["discarded_tokens"] == 0 for e in bills(folder)), "every group trained"
    booked = float(np.mean([e["update_flops"] for e in bills(folder)]))
    assert step.update_flops == pytest.approx(booked, rel=TOLERANCE)
    sampled = float(np.mean([e["prefill_flops"] + e["decode_flops"] for e in bills(folder)]))
    assert step.generate_flops == pytest.approx(sampled, rel=TOLERANCE)
    apart = 4 * GROUP * update_flops(model.config, round(typical.tokens), round(typical.attended), round(own))
    assert apart > 1.25 * booked, "without sharing it would be far off"


def test_the_preflight_knows_the_first_update(folder: Path) -> None:
    """It has the samples, and deals them out as the step does."""
    seen, about = (files.read_json(folder / f) for f in ("stages/rl/preflight.json", "environment.json"))
    flops = seen["step_s"]["update"] * environment.thread_peak_flops(about) * machine.UPDATE_UTILISATION
    assert flops == pytest.approx(bills(folder)[0]["update_flops"])


def test_a_critic_of_its_own_is_planned() -> None:
    """It reads every sample once and trains on it: four forward passes without a vocabulary."""
    own, length = 5.0, estimates.mean_length([30], [5.0], [25])
    made = estimates.Estimates(Dataset.of(ROWS), decoder(), length)
    plain, apart = (Rl(Rl.Config(kind="rl", steps=1, prompts=2, group_size=1, algorithm={"name": "ppo", "critic": critic}))
                    .estimate(made) for critic in ("head", "model"))  # fmt: skip
    read = forward_flops(decoder().config, 30, round(length.attended), round(own), outputs=1)
    assert apart.generate_flops - plain.generate_flops == pytest.approx(2 * read)
    assert apart.update_flops - plain.update_flops == pytest.approx(2 * 3 * read)


def test_prompts_are_as_long_as_they_are() -> None:
    """A task without players: prompts are measured, replies are taken to be half as long as they may be."""
    task = Dataset.of(ROWS, max_prompt_tokens=40, max_new_tokens=8)
    task.bind(tokenizer(29))
    typical, lengths = estimates.typical_length(task, "train", 16), [len(p.token_ids) for p in task.prompts("train", 16, 0)]
    assert (typical.prompt, typical.tokens, typical.own) == (np.mean(lengths), np.mean(lengths) + 4, 4.0)
