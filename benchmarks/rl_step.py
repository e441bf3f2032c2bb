"""One reinforcement step: outdo and TRL's GRPOTrainer on the same prompts: generate, score, update.

    python benchmarks/rl_step.py                                   SmolLM2 4 x 8 x 64, the 7.3M model 16 x 16 x 64
    python benchmarks/rl_step.py --models small --shapes 2x4x8 --repeats 1

Shapes are prompts x samples per prompt x new tokens. TRL runs with its own defaults for the dtype (bf16: autocast and gradient
checkpointing); the measured step comes after one of warming up. The reward is the share of even token ids: it differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import common
from common import Case, timed

TRL = "trl==1.16.0"


def even(completion_ids: Any, **_: Any) -> list[float]:
    """TRL's kind of reward function."""
    return [sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in completion_ids]


def outdo(case: Case) -> dict[str, Any]:
    from outdo.algorithms.grpo import Grpo
    from outdo.models import hf
    from outdo.recipe import OptimizerConfig
    from outdo.rollout.engine import Engine, Sampling
    from outdo.stages.common.rollouts import credit
    from outdo.system import machine
    from outdo.training.optimizer import Optimizer
    from outdo.training.step import Trainer
    from outdo.types import Group, Prompt, Score

    machine.keep_freed_memory()
    P, G, new, folder = *case["sizes"], common.model_folder(case["model"])
    model, dtype, grpo = hf.load(folder).to(case.get("device", "cpu")), common.dtype(case), Grpo()
    engine = Engine(model, dtype, P * G)
    trainer = Trainer(model, Optimizer(model, OptimizerConfig(lr=1e-6)), dtype, micro_tokens=case["micro_tokens"])
    every = common.encoded(folder, common.texts(folder, [case["prompt"]] * P * 2))
    seconds = {"generate": 0.0}

    def step(number: int) -> None:
        prompts = [Prompt(f"{number}/{i}", ids) for i, ids in enumerate(every[number * P : number * P + P])]
        longest = max(len(p.token_ids) for p in prompts) + new

        def sample() -> None:
            nonlocal trajectories
            engine.load(number)
            trajectories, _ = engine.generate(prompts, G, Sampling(1.0, new, longest, ()), 0)

        trajectories: list[Any] = []
        seconds["generate"] = timed(sample)[1]
        scores = [Score(s) for s in even([t.token_ids[t.mask] for t in trajectories])]
        parts = [slice(i * G, i * G + G) for i in range(P)]
        groups = [Group(p, tuple(trajectories[s]), tuple(scores[s])) for p, s in zip(prompts, parts, strict=True)]
        engine.release()
        trainer.step(credit(groups, grpo)[0], grpo.loss)

    step(0)
    wall, cpu = timed(lambda: step(1))
    return {"tokens": P * G * new, "wall_s": wall, "cpu_s": cpu, "generate_cpu_s": seconds["generate"],
            "floor": floor(case, model.config)}


def trl(case: Case) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from outdo.models import hf

    P, G, new, folder = *case["sizes"], common.model_folder(case["model"])
    spent: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = common.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = common.now()
            spent.append((wall - self.began[0], cpu - self.began[1]))

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, per_device_train_batch_size=P * G, num_generations=G, max_completion_length=new, max_steps=2,
            learning_rate=1e-6, use_cpu=case.get("device", "cpu") == "cpu", bf16=case["dtype"] == "bf16", report_to=[],
            save_strategy="no", disable_tqdm=True, gradient_checkpointing=case["dtype"] == "bf16", shuffle_dataset=False,
            generation_kwargs={"min_new_tokens": new})  # fmt: skip
        rows = Dataset.from_list([{"prompt": t} for t in common.texts(folder, [case["prompt"]] * P * 2)])
        trainer = GRPOTrainer(AutoModelForCausalLM.from_pretrained(folder), reward_funcs=even, args=config, train_dataset=rows,
                              processing_class=AutoTokenizer.from_pretrained(folder), callbacks=[Clock()])
        trainer.train()
    wall, cpu = spent[-1]
    return {"tokens": P * G * new, "wall_s": wall, "cpu_s": cpu, "floor": floor(case, hf.skeleton(folder).config)}


def floor(case: Case, sizes: Any) -> list[tuple[float, float]]:
    """Generation, and an update in which every prompt is computed once."""
    import generate

    from outdo.models.flops import causal_attended, update_flops

    (P, G, new), prompt = case["sizes"], case["prompt"]
    generation = generate.floor({**case, "batch": P * G, "new": new}, sizes)
    attended = P * causal_attended(prompt) + P * G * causal_attended(prompt + new, prompt)
    return [*generation, (update_flops(sizes, P * prompt + P * G * new, attended, P * G * new), 0.0)]


def cases(a: argparse.Namespace) -> list[Case]:
    shapes = {"smollm2": "4x8x64", "small": "16x16x64"}
    return [{"model": m, "dtype": d, "shape": s, "sizes": [int(x) for x in s.split("x")], "prompt": a.prompt,
             "micro_tokens": a.micro_tokens}
            for m in a.models for d in a.dtypes for s in (a.shapes or [shapes.get(m, "4x8x64")])]


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("--models", nargs="+", default=["smollm2", "small"], help="smollm2, small, a folder or a hub id")
    p.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["bf16", "fp32"])
    p.add_argument("--shapes", nargs="+", help="prompts x samples x new tokens, for example 4x8x64")
    p.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, about")
    p.add_argument("--micro-tokens", type=int, default=4096, help="outdo's optimizer.micro_tokens, its default being 4,096")


def prepare(a: argparse.Namespace, case: Case) -> dict[str, tuple[str, str]]:
    common.model_folder(case["model"])
    return {"trl": (sys.executable, common.beside_ours(TRL)), "outdo": (sys.executable, "")}


if __name__ == "__main__":
    common.main(__doc__, {"outdo": outdo, "trl": trl}, cases, add, prepare)
