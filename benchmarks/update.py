"""An optimiser step of the chess model, and its share of the matrix-product peak; of two checkouts in turns.

    python benchmarks/update.py                                  this checkout: RL's, imitation's and pre-training's batches
    python benchmarks/update.py --against ../before --rounds 8   beside another one, both in this environment

Each checkout has a process of its own, and they take turns of some steps: a machine's speed changes within minutes, ratios of
neighbouring turns change less. Random weights; 36 games a step by AdamW on one thread, 48 by Muon on two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

WORK = {  # threads, optimiser, games, who played them
    "rl": (1, "adamw", 36, "teacher"),
    "sft": (2, "muon", 48, "teacher"),
    "pretrain": (2, "muon", 48, "random"),
}


def worker(kind: str) -> None:
    """Say what a step computes and the peak, then take as many steps as each line of stdin says and answer with their seconds."""
    import numpy as np
    import torch

    from outdo.algorithms.sft import Sft
    from outdo.models.decoder import Decoder, DecoderConfig
    from outdo.recipe import OptimizerConfig
    from outdo.stages.common.imitation import demonstration
    from outdo.system import machine
    from outdo.tasks.chess_endgame import ChessEndgame
    from outdo.training.optimizer import Optimizer
    from outdo.training.step import Trainer

    threads, optimizer, games, player = WORK[kind]
    torch.set_num_threads(threads)
    machine.keep_freed_memory()
    task = ChessEndgame(ChessEndgame.Config(train_min_plies=15))
    played = task.play(player, task.prompts("train", games, 0), np.arange(games), "perfect")
    samples = [demonstration(t, "moves+result") for t in played]
    model = Decoder(DecoderConfig(len(task.tokenizer()), 128, 344, 4, 4, 4, task.max_tokens))
    model.init_weights(torch.Generator().manual_seed(0))
    dtype = machine.compute_dtype()
    trainer = Trainer(model, Optimizer(model, OptimizerConfig(kind=optimizer, lr=1e-4, muon_lr=1e-4)), dtype)
    loss = Sft().loss
    flops = [trainer.step(samples, loss)[1].flops for _ in range(5)][-1]
    print(flops, machine.gemm_peak_flops(dtype), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line) + 1):  # the first warms up what the other process has cooled
            start = time.perf_counter()
            trainer.step(samples, loss)
            seconds.append(time.perf_counter() - start)
        print(statistics.median(seconds[1:]), min(seconds[1:]), flush=True)


def compare(kind: str, folders: list[Path], rounds: int, steps: int) -> None:
    """Print a line for each checkout."""
    command, own = [sys.executable, __file__, "--worker", kind], {"OMP_NUM_THREADS": str(WORK[kind][0])}
    started, flops, peak = list[subprocess.Popen[str]](), 0.0, 0.0
    for folder in folders:  # one by one: the peak is measured with nothing beside it
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                   env={**os.environ, **own, "PYTHONPATH": str(folder)})
        assert process.stdout
        flops, seen = (float(x) for x in process.stdout.readline().split())
        started, peak = [*started, process], max(peak, seen)
    found: list[list[tuple[float, float]]] = [[] for _ in folders]
    for turn in range(rounds):
        for i in range(len(folders)) if turn % 2 else reversed(range(len(folders))):
            process = started[i]
            assert process.stdin and process.stdout
            process.stdin.write(f"{steps}\n")
            median, best = process.stdout.readline().split()
            found[i].append((float(median), float(best)))
    for folder, turns, process in zip(folders, found, started, strict=True):
        median, best = statistics.median(m for m, _ in turns), min(b for _, b in turns)
        ratios = sorted(m / other for (m, _), (other, _) in zip(turns, found[0], strict=True))
        quarter = len(ratios) // 4
        print(f"{kind}, {WORK[kind][0]} thread(s), {folder}: median {1e3 * median:.1f} ms, best {1e3 * best:.1f}; "
              f"{flops / median / peak:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s, at best {flops / best / peak:.0%}; "
              f"times the first {statistics.median(ratios):.2f} [{ratios[quarter]:.2f}, {ratios[-1 - quarter]:.2f}]")
        process.communicate()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--worker", help=argparse.SUPPRESS)
    p.add_argument("--against", type=Path, help="another checkout of outdo, measured first and in turns")
    p.add_argument("--work", nargs="+", default=list(WORK), choices=list(WORK))
    p.add_argument("--rounds", type=int, default=8, help="turns (default 8)")
    p.add_argument("--steps", type=int, default=6, help="steps a turn (default 6)")
    args = p.parse_args()
    if args.worker:
        return worker(args.worker)
    here = Path(__file__).resolve().parent.parent
    for kind in args.work:
        compare(kind, [*([args.against.resolve()] if args.against else []), here], args.rounds, args.steps)
    return None


if __name__ == "__main__":
    main()
