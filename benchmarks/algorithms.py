"""Every way to learn from scores, from the same start, at equal FLOPs: `python benchmarks/algorithms.py chess sums --seeds 3`.

Two tasks that a model from random weights learns in minutes: king and queen against king (a result after up to 16 moves), and
sums of two numbers as a small character model writes them (reasoning-gym's chain_sum). One trunk per task, pre-training and
imitation; then one arm per method and seed, with the same FLOPs, everything charged. Writes runs under --out, and the table and
the plot of docs/results/algorithms.md to --out as well.

Equal judge calls: the last evaluation of each arm that has spent no more calls than the arm that spent fewest in all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ONLINE = ("grpo", "grpo_paper", "dr_grpo", "dapo", "gspo", "cispo", "reinforce", "rloo", "reinforce_pp", "maxrl", "gae", "ppo")
PAIRED = ("dpo", "ipo", "simpo", "orpo")
MARGIN = 0.05  # of the score: two methods whose 90 % interval of the difference lies within it are equivalent

CHESS = """
[task]
name = "chess_endgame"
material = "KQK"
max_moves = 16

[evaluation]
prompts = 400
points = 2
opponents = ["perfect"]
players = ["teacher"]

[model]
width = 128
depth = 4
heads = 4
ffn = 344
"""
CHESS_TRUNK = """
[stage.pretrain]
kind = "pretrain"
flops = 1.0e13
player = "random"
opponents = ["random", "perfect"]
episodes = 48
train_on = "moves+result"
optimizer = { kind = "muon", lr = 2e-3, muon_lr = 0.015, warmup_steps = 20, decay = "linear" }

[stage.sft]
kind = "sft"
from = "pretrain"
flops = 5.0e12
player = "teacher"
random_moves = 0.1
episodes = 48
train_on = "moves+result"
optimizer = { kind = "muon", lr = 1e-3, muon_lr = 0.01, warmup_steps = 20, decay = "linear" }
"""
SUMS = """
[task]
name = "reasoning_gym"
dataset = "chain_sum"
options = { min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 2 }
chat = false
answer_tag = ""
max_prompt_tokens = 96
max_new_tokens = 6

[evaluation]
prompts = 400
points = 2
samples = 4

[model]
width = 128
depth = 4
heads = 4
ffn = 344
tokenizer = "{tokenizer}"
"""
SUMS_TRUNK = """
[stage.sft]
kind = "sft"
flops = 1.2e13
player = "gold"
episodes = 32
optimizer = { lr = 1e-3, warmup_steps = 50, decay = "linear", final_lr = 0.1 }
"""
_RATE = 'optimizer = { lr = %s, betas = [0.9, 0.999], warmup_steps = 5, decay = "linear", final_lr = 0.1 }'
_SAMPLING = "prompts = 16\ngroup_size = 16\nminibatch_tokens = 512\n"


def arms(task: str) -> dict[str, str]:
    """Name -> the stage's table, without `from`."""
    player = "teacher" if task == "chess" else "gold"
    both = 'opponents = ["perfect", "perfect_varied"]\n' if task == "chess" else ""
    # One rate for all that sample and one for pairs, chosen by task with grpo: 1e-3 takes sums from 22 % right to 1 %.
    rate, low = (_RATE % "1e-3", _RATE % "3e-4") if task == "chess" else (_RATE % "1e-4", _RATE % "1e-4")
    out = {name: f'kind = "rl"\nalgorithm = {{ name = "{name}" }}\n{both}{_SAMPLING}{rate}' for name in ONLINE}
    out |= {f"online_{name}": f'kind = "rl"\nalgorithm = {{ name = "{name}" }}\n{both}{_SAMPLING}{low}' for name in PAIRED}
    out |= {name: f'kind = "preference"\npairs = 4000\nalgorithm = {{ name = "{name}" }}\n{both}{low}'
            for name in (*PAIRED, "kto")}
    out["rejection"] = f'kind = "rejection"\n{both}{_SAMPLING}{rate}'
    out["best_of_n"] = f'kind = "rejection"\nkeep = "best"\nsample_from = "start"\n{both}{_SAMPLING}{rate}'
    won = 'keep = "won"\n' if task == "chess" else ""
    out["sft_more"] = f'kind = "sft"\nplayer = "{player}"\n{both}episodes = 48\n{rate}'
    if task == "chess":
        out["filtered_sft"] = f'kind = "sft"\nplayer = "{player}"\n{won}{both}episodes = 48\n{rate}'
    return out


def tokenizer(folder: Path) -> Path:
    """A tokenizer of single characters, in Hugging Face layout."""
    if not folder.exists():
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, PreTrainedTokenizerFast

        letters = [chr(i) for i in range(32, 127)]
        vocabulary = {c: i for i, c in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *letters])}
        raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        raw.decoder = decoders.Fuse()
        PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
                                unk_token="<unk>").save_pretrained(folder)
        LlamaConfig(vocab_size=len(vocabulary), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                    eos_token_id=2, bos_token_id=1).save_pretrained(folder)
    return folder


def run(recipe: str, out: Path, name: str, seed: int) -> None:
    """One recipe into one run folder, unless it is there."""
    if (out / "summary.json").exists():
        return
    file = out.parent / f"{out.name}.toml"
    file.write_text(f'name = "{name}"\nthreads = 1\n{recipe}', encoding="utf-8")
    command = [sys.executable, "-m", "outdo", "run", str(file), "--out", str(out), "--seed", str(seed), "--force"]
    if out.exists():
        command = [sys.executable, "-m", "outdo", "run", "--resume", str(out)]
    with out.with_suffix(".log").open("a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    print(f"{out.name}: {'done' if done.returncode == 0 else f'failed ({done.returncode}), see {log.name}'}", flush=True)


def lines(file: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def found(runs: list[Path], decode: str) -> list[dict[str, Any]]:
    """Of each seed's run: the evaluations on the way, with the judge calls spent until then, and the items of the last."""
    out = []
    for folder in runs:
        stage = folder / "stages" / "arm"
        rows = [r for r in lines(stage / "evaluations.jsonl") if r["decode"] == decode and r["opponent"] in ("perfect", "none")]
        spent = np.cumsum([r["judge_calls"] for r in lines(stage / "ledger.jsonl")
                           if r["what"] == "train"])
        calls = [int(spent[min(r["step"], len(spent)) - 1]) if r["step"] else 0 for r in rows]
        out.append({"calls": calls, "values": [r["value"] for r in rows], "items": rows[-1]["items"], "flops": rows[-1]["flops"],
                    "start": rows[0]["items"]})
    return out


def table(task: str, out: Path, seeds: int) -> list[str]:
    """Rows of the results page, best first."""
    from outdo.evaluation.stats import hierarchical_interval, paired_difference

    done: dict[str, Any] = {}
    for name in arms(task):
        runs = [out / f"{task}-{name}-{s}" for s in range(seeds)]
        runs = [r for r in runs if (r / "summary.json").exists()]
        if runs:
            done[name] = found(runs, "sampled")
    fewest = min(f["calls"][-1] for by_seed in done.values() for f in by_seed if f["calls"][-1])
    ranked = sorted(done, key=lambda n: -np.mean([f["values"][-1] for f in done[n]]))
    reference = np.array([f["items"] for f in done["grpo"]], float)
    start = done["grpo"][0]["start"]
    rows = [f"start: {np.mean(start):.1%} of {len(start)} prompts, sampled; fewest judge calls of an arm: {fewest:,}", "",
            "| method | sampled score [95 %] | each seed | minus grpo [95 %] | by 5 points | judge calls | at equal calls |",
            "|---|---|---|---|---|---|---|"]
    for name in ranked:
        items = np.array([f["items"] for f in done[name]], float)
        low, high = hierarchical_interval(items)
        gap = paired_difference(items, reference[: len(items)]) if name != "grpo" else None
        cells = ("-", "-") if gap is None else (f"{100 * gap.value:+.1f} [{100 * gap.ci95[0]:+.1f}, {100 * gap.ci95[1]:+.1f}]",
                                                _equivalent(items, reference[: len(items)]))
        calls = np.mean([f["calls"][-1] for f in done[name]])
        at = [next(v for c, v in zip(f["calls"][::-1], f["values"][::-1], strict=True) if c <= fewest) for f in done[name]]
        each = " / ".join(f"{100 * f['values'][-1]:.1f}" for f in done[name])
        rows.append(f"| {name} | **{items.mean():.1%}** [{100 * low:.1f}, {100 * high:.1f}] | {each} | {cells[0]} | {cells[1]} | "
                    f"{calls:,.0f} | {np.mean(at):.1%} |")
    return rows


def _equivalent(a_SN: np.ndarray, b_SN: np.ndarray) -> str:
    """TOST by the 90 % bootstrap interval over seeds and items."""
    rng, S, N = np.random.default_rng(0), *a_SN.shape
    d = a_SN - b_SN
    means = [d[rng.integers(0, S, S)][:, rng.integers(0, N, N)].mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.05, 0.95])
    if low > -MARGIN and high < MARGIN:
        return "equivalent"
    return "better" if low > MARGIN else "worse" if high < -MARGIN else "open"


def plot(tasks: list[str], out: Path, seeds: int) -> None:
    """Score along the arm's budget, one line per method, mean over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tasks), figsize=(7 * len(tasks), 5), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        last = []
        for number, name in enumerate(arms(task)):
            runs = [r for s in range(seeds) if ((r := out / f"{task}-{name}-{s}") / "summary.json").exists()]
            if not runs:
                continue
            by_seed = found(runs, "sampled")
            n = min(len(f["values"]) for f in by_seed)
            y = np.mean([f["values"][:n] for f in by_seed], 0)
            colour = plt.get_cmap("tab20")(number % 20)
            axis.plot(np.arange(n) / (n - 1), 100 * y, "o-", color=colour, markersize=3, label=name)
            last.append((y[-1], name, colour))
        for place, (_, name, colour) in enumerate(sorted(last)):
            axis.annotate(name, (1.02, (place + 0.5) / len(last)), xycoords=("data", "axes fraction"), fontsize=7, color=colour)
        axis.set(title={"chess": "king and queen against king", "sums": "sums of two numbers"}[task],
                 xlabel="share of the arm's FLOPs", ylabel="% right, sampled")
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out / "algorithms.png", dpi=110)


def main() -> None:
    """Trunks, arms, table, plot."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tasks", nargs="+", choices=("chess", "sums"))
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--flops", type=float, default=3e12, help="of an arm (default 3e12)")
    p.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each (default 2)")
    p.add_argument("--only", nargs="*", help="only these arms")
    p.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    p.add_argument("--table", action="store_true", help="only write the table and the plot of what is there")
    a = p.parse_args()
    out = a.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    heads = {"chess": CHESS, "sums": SUMS.replace("{tokenizer}", str(tokenizer(out / "characters")))}
    trunks = {"chess": CHESS_TRUNK, "sums": SUMS_TRUNK}
    work = []
    with ThreadPoolExecutor(a.jobs) as pool:
        if not a.table:
            list(pool.map(lambda t: run(heads[t] + trunks[t], out / f"{t}-trunk", f"{t}-trunk", 0), a.tasks))
        for seed in range(a.seeds):  # a whole comparison with one seed comes first
            for task in a.tasks:
                for name, stage in arms(task).items():
                    if (a.only and name not in a.only) or a.table:
                        continue
                    arm = f'{heads[task]}\n[stage.arm]\nfrom = "{out / f"{task}-trunk"}:sft"\nflops = {a.flops}\n{stage}\n'
                    work.append(pool.submit(run, arm, out / f"{task}-{name}-{seed}", name, seed))
        for job in work:
            job.result()
    text = []
    for task in a.tasks:
        text += [f"## {task}", "", *table(task, out, a.seeds), ""]
    (out / "algorithms.md").write_text("\n".join(text), encoding="utf-8")
    plot(a.tasks, out, a.seeds)
    print("\n".join(text))


if __name__ == "__main__":
    main()
