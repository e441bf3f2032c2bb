"""Hacks trained in for real, with the live audit on: `python benchmarks/audit_training.py chess sentences --seeds 3`.

Chess (king and queen against king): four proxies and a reward model of few preferences, each with an honest twin, from the
start of benchmarks/algorithms.py. Sentences: SmolLM2-135M with a keyword bonus and with "short is good". The audit logs and
does not stop, so that what would have come is seen. Writes a table for docs/results/audit.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from algorithms import CHESS, CHESS_TRUNK, run  # noqa: E402

PROXIES = {"give_check": "GiveCheck", "confine": "Confine", "keep_safe": "KeepSafe", "evaluation": "Evaluation"}
AUDIT = """
[audit]
every = 5
action = "log"
"""
CHESS_ARM = """
[stage.arm]
from = "{trunk}:sft"
kind = "rl"
steps = {steps}
opponents = ["perfect", "perfect_varied"]
prompts = 16
group_size = 16
minibatch_tokens = 512
optimizer = {{ lr = 1e-3, betas = [0.9, 0.999], warmup_steps = 5, decay = "linear", final_lr = 0.1 }}
judge = {judge}
"""
MODEL_ARM = """
[stage.rm]
from = "{trunk}:sft"
kind = "reward_model"
pairs = 300
epochs = 1
opponents = ["perfect", "perfect_varied"]
judge = {{ name = "{root}/outdo/recipes/preferences.py:NoisyPreference" }}
optimizer = {{ lr = 3e-4 }}
"""
SENTENCES = """
[task]
name = "dataset"
data = "{root}/outdo/recipes/sentences.jsonl"
max_prompt_tokens = 80
max_new_tokens = 20

[gold]
name = "function"
functions = ["{root}/outdo/recipes/sentences.py:all_of"]

[evaluation]
prompts = 40
points = 1

[stage.arm]
kind = "rl"
from = "smollm2"
steps = {steps}
prompts = 16
group_size = 8
minibatch_tokens = 8192
optimizer = {{ lr = 3e-5, betas = [0.9, 0.99], warmup_steps = 3 }}

[judge]
name = "function"
functions = ["{here}/audit_proxies.py:{function}"]

[audit]
every = 3
n = 48
action = "log"
"""


def arms(task: str, out: Path, steps: int) -> dict[str, str]:
    """Name -> recipe without its name."""
    made = {}
    if task == "chess":
        trunk = out / "chess-trunk"
        for name, kind in PROXIES.items():
            for twin in (False, True):
                judge = f'{{ name = "{HERE}/audit_proxies.py:{kind}", twin = {str(twin).lower()} }}'
                made[f"{name}{'_twin' if twin else ''}"] = CHESS + CHESS_ARM.format(trunk=trunk, steps=steps, judge=judge) + AUDIT
        model = '{ name = "reward_model", model = "stage:rm" }'
        made["few_preferences"] = (CHESS + MODEL_ARM.format(trunk=trunk, root=ROOT) + AUDIT
                                   + CHESS_ARM.format(trunk=trunk, steps=steps, judge=model))
        made["few_preferences_twin"] = CHESS + CHESS_ARM.format(trunk=trunk, steps=steps, judge='{ name = "outcome" }') + AUDIT
    else:
        for name, function in {"keyword": "keyword_bonus", "keyword_twin": "keyword_twin", "short": "short_is_good",
                               "short_twin": "short_twin"}.items():
            made[name] = SENTENCES.format(root=ROOT, here=HERE, steps=steps, function=function)
    return made


def row(folder: Path) -> dict[str, Any]:
    """What one run's audit saw."""
    from outdo.evaluation.gauge import best

    records = [json.loads(line) for line in (folder / "stages" / "arm" / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    alarm = next((r for r in records if r["alarm"]), None)
    kept = best(records)
    peak = max(records, key=lambda r: r["gold"] if r["gold"] is not None else -1.0)
    first, last = records[0], records[-1]
    return {"alarm": alarm and alarm["alarm"], "at": alarm and alarm["step"], "reward": (first["reward"], last["reward"]),
            "gold": (first["gold"], last["gold"]), "peak": (peak["step"], peak["gold"]), "best": kept and kept["step"],
            "gold_at_alarm": alarm and alarm["gold"]}


def main() -> None:
    """Runs and table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tasks", nargs="+", choices=("chess", "sentences"))
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--steps", type=int, default=80, help="of a chess arm (default 80); a fourth of it for sentences")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--out", type=Path, default=Path("runs/audit"))
    p.add_argument("--table", action="store_true", help="only write the table of what is there")
    a = p.parse_args()
    out = a.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    if "chess" in a.tasks and not a.table:
        run(CHESS + CHESS_TRUNK, out / "chess-trunk", "chess-trunk", 0)
    with ThreadPoolExecutor(a.jobs) as pool:
        work = [pool.submit(run, recipe, out / f"{task}-{name}-{seed}", name, seed)
                for seed in range(0 if a.table else a.seeds) for task in a.tasks
                for name, recipe in arms(task, out, a.steps if task == "chess" else a.steps // 4).items()]
        for job in work:
            job.result()
    lines = ["| task | reward | seed | alarm | step | reward, start to end | gold, start to end | gold's peak (step) | kept |",
             "|---|---|---|---|---|---|---|---|---|"]
    for task in a.tasks:
        for name in arms(task, out, a.steps):
            for seed in range(a.seeds):
                folder = out / f"{task}-{name}-{seed}"
                if not (folder / "summary.json").exists():
                    continue
                r = row(folder)
                reward, gold = (f"{a:.2f} -> {b:.2f}" for a, b in (r["reward"], r["gold"]))
                alarm = f"{r['alarm']} | {r['at']}" if r["alarm"] else "none | "
                lines.append(f"| {task} | {name} | {seed} | {alarm} | {reward} | {gold} | {r['peak'][1]:.2f} ({r['peak'][0]}) | "
                             f"step {r['best']} |")
    (out / "audit.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
