"""Supervised fine-tuning: outdo and TRL's SFTTrainer, real tokens per second over rows of different lengths.

    python benchmarks/sft.py                          TRL packing its rows, and padding them (--trl padded)
    python benchmarks/sft.py --models small --dtypes bf16 --rows 4 --repeats 1

Rows have 64 to 256 tokens, all of which train; a step takes about 2,048 of them. The measured steps come after one of warming up.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import common
from common import Case, timed

TRL = "trl==1.16.0"
SHORTEST, LONGEST = 64, 256
STEPS = 2  # measured, after one


def outdo(case: Case) -> dict[str, Any]:
    import numpy as np

    from outdo.algorithms.sft import Sft
    from outdo.models import hf
    from outdo.recipe import OptimizerConfig
    from outdo.system import machine
    from outdo.training.optimizer import Optimizer
    from outdo.training.step import Trainer
    from outdo.types import Sample

    machine.keep_freed_memory()
    folder = common.model_folder(case["model"])
    model, dtype, sft = hf.load(folder).to(case.get("device", "cpu")), common.dtype(case), Sft()
    trainer = Trainer(model, Optimizer(model, OptimizerConfig(lr=1e-6)), dtype, micro_tokens=case.get("micro_tokens", 8192))

    def sample(ids: Any) -> Sample:
        mask = np.arange(len(ids)) > 0
        return Sample(ids, mask, mask.astype(np.float32), np.zeros(len(ids), np.float32))

    rows = [sample(ids) for ids in _rows(case)]
    per_step = case["rows"]
    trainer.step(rows[:per_step], sft.loss)
    wall, cpu = timed(lambda: [trainer.step(rows[i * per_step : (i + 1) * per_step], sft.loss) for i in range(1, 1 + STEPS)])
    lengths = [len(r.token_ids) for r in rows[per_step:]]
    return {"tokens": sum(lengths), "wall_s": wall, "cpu_s": cpu, "floor": floor(lengths, model.config)}


def trl(case: Case, packing: bool = True) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from outdo.models import hf

    folder = common.model_folder(case["model"])
    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(common.now())

    per_step = case["rows"]
    if packing:  # as many packed rows as hold a step's tokens
        per_step = max(1, round(per_step * (SHORTEST + LONGEST) / 2 / LONGEST))
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, per_device_train_batch_size=per_step, max_length=LONGEST, packing=packing, max_steps=1 + STEPS,
            learning_rate=1e-6, use_cpu=case.get("device", "cpu") == "cpu", bf16=case["dtype"] == "bf16", report_to=[],
            save_strategy="no", logging_steps=1, disable_tqdm=True, gradient_checkpointing=case["dtype"] == "bf16")  # fmt: skip
        rows = Dataset.from_list([{"input_ids": ids.tolist()} for ids in _rows(case)])
        trainer = SFTTrainer(AutoModelForCausalLM.from_pretrained(folder), args=config, train_dataset=rows, callbacks=[Clock()],
                             processing_class=AutoTokenizer.from_pretrained(folder))
        trainer.train()
        seen = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    wall, cpu = (b - a for a, b in zip(marks[0], marks[STEPS], strict=True))
    lengths = [len(ids) for ids in _rows(case)][case["rows"] :]
    return {"tokens": seen[STEPS] - seen[0], "wall_s": wall, "cpu_s": cpu, "floor": floor(lengths, hf.skeleton(folder).config)}


def trl_padded(case: Case) -> dict[str, Any]:
    return trl(case, packing=False)


def floor(lengths: list[int], sizes: Any) -> list[tuple[float, float]]:
    from outdo.models.flops import causal_attended, update_flops

    return [(sum(update_flops(sizes, n, causal_attended(n), n - 1) for n in lengths), 0.0)]


def _rows(case: Case) -> list[Any]:
    """Token ids for one step to warm up and STEPS to measure."""
    import numpy as np

    folder = common.model_folder(case["model"])
    lengths = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, case["rows"] * (1 + STEPS)).tolist()
    return [ids[:LONGEST] for ids in common.encoded(folder, common.texts(folder, lengths))]


def cases(a: argparse.Namespace) -> list[Case]:
    return [{"model": m, "dtype": d, "rows": a.rows, "shape": f"{a.rows} rows a step"} for m in a.models for d in a.dtypes]


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("--models", nargs="+", default=["smollm2", "small"], help="smollm2, small, a folder or a hub id")
    p.add_argument("--dtypes", nargs="+", default=["bf16"], choices=["bf16", "fp32"])
    p.add_argument("--rows", type=int, default=13, help="rows of data per optimiser step")
    p.add_argument("--trl", nargs="+", default=["packed"], choices=["packed", "padded"], help="how TRL is to make its batches")


def prepare(a: argparse.Namespace, case: Case) -> dict[str, tuple[str, str]]:
    common.model_folder(case["model"])
    path = common.beside_ours(TRL)
    return {**{f"trl {how}": (sys.executable, path) for how in a.trl}, "outdo": (sys.executable, "")}


if __name__ == "__main__":
    common.main(__doc__, {"outdo": outdo, "trl packed": trl, "trl padded": trl_padded}, cases, add, prepare)
