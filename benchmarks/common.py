"""What the benchmarks share: peer and outdo in turns, each time in a fresh process, and what the machine could do at best.

CPU seconds stand beside wall seconds: on a machine that does other work as well only the former can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
Case = dict[str, Any]
Worker = Callable[[Case], dict[str, Any]]


def main(doc: str, workers: dict[str, Worker], cases: Callable[[argparse.Namespace], list[Case]], add: Callable[..., None],
         prepare: Callable[[argparse.Namespace, Case], dict[str, tuple[str, str]]]) -> None:
    """Run cases, or be the process that measures one of them.

    prepare(arguments, case): who takes part -> (its Python, what its PYTHONPATH begins with).
    """
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    p.add_argument("--repeats", type=int, default=3, help="fresh processes per participant, in turns (default 3)")
    p.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    p.add_argument("--core", type=int, help="first of the cores to stay on; default: wherever there is room")
    p.add_argument("--out", type=Path, help="append every single measurement to this JSON-lines file")
    add(p)
    a = p.parse_args()
    if a.worker:
        finish(lambda case: _measured(workers[a.worker[0]], case), a.worker[1])
    lines: list[str] = []
    for case in cases(a):
        found = {who: [] for who in prepare(a, case)}
        for _ in range(a.repeats):
            for who, (python, path) in prepare(a, case).items():
                found[who].append(fresh_process(who, python, path, {**case, "threads": a.threads, "core": a.core}))
                if a.out:
                    with a.out.open("a", encoding="utf-8") as f:
                        f.write(json.dumps({"who": who, **case, **found[who][-1]}) + "\n")
        lines += _rows(case, found)
        print(f"{_name(case)}: done", file=sys.stderr)
    print(f"\n{platform.machine()}, {a.threads} thread(s), {a.repeats} process(es) each in turns, median (lowest-highest).\n")
    print("| work | who | tokens per CPU-s | CPU-s | wall s | peak memory | at the floor: CPU-s | times the first |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def _measured(worker: Worker, case: Case) -> dict[str, Any]:
    import torch

    torch.set_num_threads(case["threads"])
    if case["core"] is not None:
        os.sched_setaffinity(0, range(case["core"], case["core"] + case["threads"]))
    out = worker(case)
    out["rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    square, big = torch.randn(1024, 1024).to(dtype(case)), torch.ones(1 << 26)
    copy = torch.empty_like(big)
    # Per CPU second, as what is compared with them.
    out["peak_flops"] = 2 * 1024**3 / min(timed(lambda: torch.mm(square, square))[1] for _ in range(20))
    out["bandwidth"] = 2 * big.nbytes / min(timed(lambda: copy.copy_(big))[1] for _ in range(5))
    return out


def dtype(case: Case) -> Any:
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[case["dtype"]]


def now() -> tuple[float, float]:
    """Wall and CPU seconds of all threads, a GPU's work so far done; both tick from some moment in the past."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds that the work takes."""
    wall, cpu = now()
    work()
    after = now()
    return after[0] - wall, after[1] - cpu


def finish(work: Worker, case: str) -> NoReturn:
    """Measure as a fresh process, tell the one that asked, and end with whatever a peer left running."""
    print("\n" + json.dumps(work(json.loads(case))), flush=True)
    os._exit(0)


def fresh_process(who: str, python: str, path: str, case: Case) -> dict[str, Any]:
    """What this script's worker `who` measures in a process of its own. path: what its PYTHONPATH begins with."""
    paths = [p for p in (path, str(ROOT), os.environ.get("PYTHONPATH", "")) if p]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(case["threads"]), "HF_HUB_OFFLINE": "1",
           "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
           "VLLM_CPU_KVCACHE_SPACE": "2"}  # GB; left alone it takes whatever the machine has
    done = subprocess.run([python, sys.argv[0], "--worker", who, json.dumps(case)], env=env, capture_output=True, text=True)
    try:
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result
    except (IndexError, ValueError):
        last = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise SystemExit(f"{who} failed on {_name(case)} (exit code {done.returncode}):\n{last}") from None


def _rows(case: Case, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    rate = {who: statistics.median(r["tokens"] / r["cpu_s"] for r in runs) for who, runs in found.items()}
    every = [r for runs in found.values() for r in runs]
    peak, bandwidth = (statistics.median(r[k] for r in every) for k in ("peak_flops", "bandwidth"))
    first, out = next(iter(rate.values())), []
    for who, runs in found.items():
        floor = floor_s({**runs[0], "peak_flops": peak, "bandwidth": bandwidth})
        out.append(f"| {_name(case)} | {who} | {_spread([x['tokens'] / x['cpu_s'] for x in runs])} | "
                   f"{_spread([x['cpu_s'] for x in runs])} | {_spread([x['wall_s'] for x in runs])} | "
                   f"{statistics.median(x['rss_bytes'] for x in runs) / 1e9:.1f} GB | {floor:.2f} | {rate[who] / first:.2f} |")
    return out


def floor_s(run: dict[str, Any]) -> float:
    """Seconds that the arithmetic takes at the peak, or the reading at the bandwidth where that is more."""
    return sum(max(flops / run["peak_flops"], size / run["bandwidth"]) for flops, size in run["floor"])


def median(runs: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(of(r) for r in runs)


def _spread(values: Sequence[float]) -> str:
    def digits(x: float) -> str:
        return f"{x:.0f}" if x >= 100 else f"{x:.3g}"

    middle = digits(statistics.median(values))
    return middle if len(values) < 2 else f"{middle} ({digits(min(values))}-{digits(max(values))})"


def _name(case: Case) -> str:
    return " ".join(str(v) for k, v in case.items() if k in ("model", "dtype", "shape"))


# --- models and prompts ---------------------------------------------------------------------------------------------


def model_folder(name: str) -> Path:
    """smollm2, or small: a Llama of 7.3M random parameters with a tokenizer of 2,048 words. In Hugging Face layout."""
    from outdo.models import fetch

    if name != "small":
        return fetch.resolve(name, print)
    folder = fetch.cache() / "models" / "benchmark-small"
    if not (folder / "model.safetensors").is_file():
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, 2048))])}
        bare = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
        bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        PreTrainedTokenizerFast(tokenizer_object=bare, **special).save_pretrained(folder)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(
            vocab_size=2048, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
            max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0)
        ).save_pretrained(folder)  # fmt: skip
    return folder


def texts(folder: Path, lengths: Sequence[int], seed: int = 0) -> list[str]:
    """Texts of about so many tokens: words that are tokens by themselves, drawn at random."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = sorted(w.lstrip("Ġ") for w in tokenizer.get_vocab() if w.startswith(("Ġ", "w")) and w.lstrip("Ġ").isalnum())
    rng = np.random.default_rng(seed)
    return [" " + " ".join(rng.choice(words, n)) for n in lengths]


def encoded(folder: Path, what: Sequence[str]) -> list[Any]:
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [np.array(tokenizer(t, add_special_tokens=False)["input_ids"], np.int64) for t in what]


# --- peers ----------------------------------------------------------------------------------------------------------


def beside_ours(package: str) -> str:
    """A pure Python peer in a folder of its own, on our torch and transformers -> what PYTHONPATH begins with."""
    folder = _peers() / package
    if not folder.is_dir():
        _pip(sys.executable, ["install", "--no-deps", "--target", str(folder), package])
    return str(folder)


def own_environment(package: str, without: Sequence[str] = ()) -> str | None:
    """A peer with dependencies of its own in a virtual environment -> its Python, or None, with the reason on stderr.

    without: what it brings and this use of it does not need.
    """
    folder = _peers() / package
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return str(python)
    try:
        venv.create(folder, with_pip=True)
        _pip(str(python), ["install", package])
        if without:
            _pip(str(python), ["uninstall", "--yes", *without])
        ready.touch()
        return str(python)
    except (SystemExit, OSError, subprocess.SubprocessError) as e:
        print(f"{package} cannot be installed here, left out: {e}", file=sys.stderr)
        return None


def _pip(python: str, arguments: list[str]) -> None:
    done = subprocess.run([python, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or ["pip failed"])[-1])


def _peers() -> Path:
    from outdo.models import fetch

    return fetch.cache() / "peers"
