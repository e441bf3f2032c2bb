"""One GPU, under ten minutes: generation, RL step and SFT against transformers and TRL, and against the card's own limits.

    python benchmarks/gpu.py                          a Llama of 0.5B random parameters, bf16
    python benchmarks/gpu.py --model smollm2 --quick

"of the limit" is floor seconds / measured seconds, the floor being bytes over the measured bandwidth for decoding and FLOPs over
the measured GEMM peak for the update. Aims: half of the bandwidth at batch 64, 40 % of the peak in the update.
Without a GPU it says so and does nothing. Not yet run on one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout that is not installed

import common
import generate
import rl_step
import sft
from common import Case


def half_billion() -> Path:
    """A Llama of 0.5B random parameters with the tokenizer of SmolLM2; made once."""
    from outdo.models import fetch

    folder = fetch.cache() / "models" / "benchmark-half-billion"
    if not (folder / "config.json").is_file():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(common.model_folder("smollm2"))
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=1280, intermediate_size=3584, num_hidden_layers=24, num_attention_heads=20,
            num_key_value_heads=5, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
            pad_token_id=2)).save_pretrained(folder)  # fmt: skip
        tokenizer.save_pretrained(folder)
    return folder


def measured(case: Case) -> dict[str, Any]:
    """What a worker of the three scripts says, and what the card can do: FLOP/s of a large product, bytes/s of a copy."""
    import torch

    from outdo.system import machine

    job, who = case["job"], case["who"]
    worker = {("generate", "outdo"): generate.outdo, ("generate", "transformers"): generate.transformers,
              ("rl_step", "outdo"): rl_step.outdo, ("rl_step", "trl"): rl_step.trl,
              ("sft", "outdo"): sft.outdo, ("sft", "trl"): sft.trl}[job, who]  # fmt: skip
    out = worker(case)
    out["gpu_bytes"] = torch.cuda.max_memory_allocated()
    card, dtype = torch.device("cuda"), common.dtype(case)
    return out | {"peak_flops": machine.gemm_peak_flops(dtype, device=card), "bandwidth": machine.copy_bandwidth(card)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    p.add_argument("--model", help="a name, folder or hub id; default: 0.5B random parameters")
    p.add_argument("--repeats", type=int, default=2)
    p.add_argument("--quick", action="store_true", help="small shapes, one repeat: does it run?")
    a = p.parse_args()
    import torch

    if not torch.cuda.is_available():
        return print("benchmarks/gpu.py: no CUDA device here, nothing measured")
    if a.worker:
        common.finish(measured, a.worker[1])
    folder = str(common.model_folder(a.model) if a.model else half_billion())
    new, rows, sizes = (16, 4, [2, 4, 16]) if a.quick else (128, 64, [16, 16, 128])
    base = {"model": folder, "dtype": "bf16", "device": "cuda", "threads": torch.get_num_threads(), "core": None, "prompt": 64,
            "micro_tokens": 16384, "warm_up": new}  # graphs are recorded once, not in every step
    jobs: list[tuple[Case, list[str]]] = [
        *(({**base, "job": "generate", "batch": b, "new": new, "shape": f"batch {b}"}, ["transformers", "outdo"])
          for b in (8, 64)),
        ({**base, "job": "rl_step", "sizes": sizes, "shape": "x".join(map(str, sizes))}, ["trl", "outdo"]),
        ({**base, "job": "sft", "rows": rows, "shape": f"{rows} rows"}, ["trl", "outdo"]),
    ]
    print(f"{torch.cuda.get_device_name()}, medians of {a.repeats}\n")
    print("| work | who | tokens/s | wall s | GPU memory | of the limit | times the peer |\n|---|---|---|---|---|---|---|")
    every: list[dict[str, Any]] = []
    for case, participants in jobs:
        runs: dict[str, list[dict[str, Any]]] = {who: [] for who in participants}
        for _ in range(1 if a.quick else a.repeats):
            for who in participants:
                path = common.beside_ours(rl_step.TRL) if who == "trl" else ""
                runs[who].append(common.fresh_process(who, sys.executable, path, {**case, "who": who}))
        rates = {who: common.median(runs[who], lambda r: r["tokens"] / r["wall_s"]) for who in participants}
        for who in participants:
            wall = common.median(runs[who], lambda r: r["wall_s"])
            floor = common.median(runs[who], common.floor_s)
            memory = common.median(runs[who], lambda r: r["gpu_bytes"]) / 1e9
            print(f"| {case['job']} {case['shape']} | {who} | {rates[who]:.0f} | {wall:.2f} | {memory:.1f} GB | "
                  f"{floor / wall:.0%} | {rates[who] / rates[participants[0]]:.2f} |", flush=True)
            every += runs[who]
    peak, bandwidth = (common.median(every, lambda r, k=k: r[k]) for k in ("peak_flops", "bandwidth"))
    print(f"\nThe card's limits, measured in the same processes: {peak / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s.")


if __name__ == "__main__":
    main()
