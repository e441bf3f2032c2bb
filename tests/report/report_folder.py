"""A small run folder written by hand, in exactly the files and fields that a run writes.

pretrain -> sft -> (sft_more, rl, rl_check): two evaluations per stage, two training steps each. `word` stands in every
place where a run writes a free string, so that one call makes a harmless folder and another a hostile one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

Row = dict[str, Any]
STAGES = {"pretrain": None, "sft": "pretrain", "sft_more": "sft", "rl": "sft", "rl_check": "sft"}
OWN = {"rl": "rl", "rl_check": "rl", "pretrain": "pretrain", "sft": "sft", "sft_more": "sft"}
# sampled score at the start and at the end of each stage; greedy is five points better, other opponents the same
SCORES = {"pretrain": (0.0, 0.125), "sft": (0.125, 0.5), "sft_more": (0.5, 0.625), "rl": (0.5, 0.875),
          "rl_check": (0.5, 0.0625)}
REWARDS = {"rl_check": (0.25, 0.75)}  # where the reward is not the score
N = 400


def make(folder: Path, word: str = "word", opponent: str = "perfect", finished: bool = True) -> Path:
    """Write the folder. Not finished: `rl` is half way, `rl_check` has not begun, players and summary are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe(word)), encoding="utf-8")
    write(folder / "environment.json", {
        "outdo": "0.1.0", "python": word, "packages": {"torch": word}, "command": ["outdo", "run", word],
        "git": {"commit": word, "diff": word}, "platform": word, "processor": word, "cores": 2, "threads": 1,
        "memory_bytes": 25276502016, "accelerator": None, "compute_dtype": "bf16",
        "gemm_peak_flops_per_s": {"bf16": 2e9, "fp32": 1e9}})
    for name in STAGES:
        if finished or name != "rl_check":
            stage(folder / "stages" / name, name, word, opponent, finished or name != "rl")
    if finished:
        players = [{"player": p, **score(v, opponent)} for p, v in (("random", 0.0), ("teacher", 0.75), (word, 1.0))]
        lines(folder / "players.jsonl", players)
        write(folder / "summary.json", summary(folder, word, players))
    return folder


def recipe(word: str) -> Row:
    imitation = {"kind": "sft", "flops": 4e9, "player": "teacher"}
    rl = {"kind": "rl", "from": "sft", "flops": 4e9}
    return {"name": "small", "seed": 3, "task": {"name": "chess_endgame", "material": word},
            "stage": {"pretrain": {"kind": "pretrain", "flops": 4e9}, "sft": {**imitation, "from": "pretrain"},
                      "sft_more": {**imitation, "from": "sft"}, "rl": rl,
                      "rl_check": {**rl, "judge": {"name": word}}}}


def stage(folder: Path, name: str, word: str, opponent: str, done: bool) -> None:
    folder.mkdir(parents=True)
    steps = 2 if done else 1
    rolls = OWN[name] == "rl"
    spent = {"prefill_tokens": 10 * rolls, "decode_tokens": 20 * rolls, "train_tokens": 30,
             "discarded_tokens": 5 * rolls, "prefill_flops": 1e8 * rolls, "decode_flops": 4e8 * rolls,
             "judge_flops": 0.0, "reference_flops": 0.0,
             "update_flops": 1.5e9 if rolls else 2e9, "judge_calls": 8 * rolls, "episodes": 8}
    clock = {"wall_s": 3.0, "cpu_s": 2.5, "update_core_s": 1.5, "peak_rss_bytes": 1_500_000_000}
    ledger = [{"step": 0, "what": "evaluate", **spent, **clock, "wall_s": 0.5}]
    ledger += [{"step": s, "what": "train", **spent, **clock, "update_s": 2.0, "threads": 1} for s in range(steps)]
    ledger += [{"step": 0, "what": "train", **spent, **clock, "wall_s": 100.0, "update_s": 50.0, "redone": True}]
    ledger += [{"step": steps, "what": "checkpoint", **dict.fromkeys(spent, 0), **clock, "wall_s": 0.25}]
    lines(folder / "ledger.jsonl", ledger)
    if rolls:
        measured = {"reward": 0.5, "unscored": 0.0, "zero_variance_groups": 0.25, "entropy": 1.5, "clip_fraction": 0.01,
                    "logprob_gap": 0.002, "kl": 0.001, "tokens_per_episode": 26.0, "grad_norm": 0.5}
    else:
        measured = {"loss": 1.0, "nll": 1.0, "logprob_gap": 1.0, "grad_norm": 0.5, "episodes": 8.0}
    lines(folder / "metrics.jsonl", [{"step": s, "flops": 2e9 * (s + 1), **measured} for s in range(steps)])
    evaluations = []
    judging = {"value": 0.75, "ci95": [0.7, 0.8], "n": 300}
    for i, step in enumerate([0, 2][:steps]):
        last = bool(i)
        for o in ((opponent, "other") if last else (opponent,)):
            for decode, bonus in (("sampled", 0.0), ("greedy", 0.05)):
                value = SCORES[name][i] + bonus
                reward = REWARDS[name][i] if name in REWARDS else value
                evaluations.append({"step": step, "point": i, "flops": 2e9 * step, "last": last, "decode": decode,
                                    **score(value, o, reward), "judging": judging})
    lines(folder / "evaluations.jsonl", evaluations)
    lines(folder / "rollouts.jsonl", [game(name, d, won, word) for d in ("sampled", "greedy") for won in (True, False)]
          + [{**game(name, "sampled", True, word), "source": "train", "text": "a training game"}])
    if done:
        write(folder / "done.json", {"step": steps, "checkpoint": f"checkpoints/{steps}"})


def score(value: float, opponent: str, reward: float | None = None) -> Row:
    rest = (1 - value) / 2
    extra = {"stalemate": 0.0, "material": rest, "repetition": 0.0, "illegal": rest, "move_limit": 0.0, "moves": 12.0,
             "excess_moves": 1.5, "teacher_agreement": 0.5, "optimal_agreement": 0.25,
             "reward": value if reward is None else reward, "gold": value}
    return {"opponent": opponent, "value": value, "ci95": [value - 0.04, value + 0.04], "n": N, "extra": extra,
            "items": [value]}


def game(name: str, decode: str, won: bool, word: str) -> Row:
    """A mate in one, or a reply that is no move."""
    start = "6k1/8/6K1/8/8/8/8/R7 w - - 0 1"
    mate = {"uci": "a1a8", "san": "Ra8#", "fen": "R5k1/8/6K1/8/8/8/8/8 b - - 1 1", "by": "white"}
    wrong = {"uci": word, "illegal": True, "by": "white", "fen": start}
    result = {"value": float(won), "reason": word}
    return {"step": 2, "source": f"evaluate/{decode}", "prompt_id": word, "sample": 0, "policy_version": 2,
            "text": f"<s> {word} {name}", "finish": "done",
            "info": {"result": "mate" if won else word, "moves": int(won), "opponent": word},
            "score": result, "gold": result, "replay": [{"fen": start}, mate if won else wrong]}


def summary(folder: Path, word: str, references: list[Row]) -> Row:
    players = []
    for name in STAGES:
        for e in read_lines(folder / "stages" / name / "evaluations.jsonl"):
            if e["last"]:
                players.append(player(name, name, e["decode"], e))
    players += [player(e["player"], None, "sampled" if e["player"] == "random" else "greedy", e) for e in references]
    return {"task": "chess_endgame", "recipe": "small", "seed": 3, "players": players,
            "ledger": {name: bill(OWN[name] == "rl") for name in STAGES}, "verdicts": verdicts(word)}


def player(name: str, stage: str | None, decode: str, e: Row) -> Row:
    extra = {**e["extra"], "opponent": e["opponent"], **({"judging": e["judging"]} if "judging" in e else {})}
    return {"name": name, "stage": stage, "decode": decode, "metric": f"win vs {e['opponent']}", "value": e["value"],
            "ci95": e["ci95"], "n": e["n"], "seeds": [3], "extra": extra}


def bill(rolls: bool) -> Row:
    flops = {"prefill": 2e8 * rolls, "decode": 8e8 * rolls, "judge": 0.0, "reference": 0.0,
             "update": 3e9 if rolls else 4e9}
    return {"prefill_tokens": 20 * rolls, "decode_tokens": 40 * rolls, "train_tokens": 60,
            "discarded_tokens": 10 * rolls, "flops": flops,
            "judge_calls": 16 * rolls, "episodes": 16, "wall_s": 6.0, "cpu_s": 5.0,
            "update_s": 4.0, "update_core_s": 3.0, "threads": 1, "peak_rss_bytes": 1_500_000_000,
            "overhead_wall_s": 0.75, "redone_flops": 2e9, "redone_wall_s": 100.0}


def verdicts(word: str) -> list[Row]:
    difference = {"value": 0.25, "ci95": [0.2, 0.3], "n": N, "seeds": 1}
    return [
        {"id": "beats_teacher", "claim": f"claim {word}", "verdict": "supported", "text": f"text {word}",
         "evidence": {"difference": difference, f"key {word}": word, "list": [word, 2]}},
        {"id": "cost_ratio", "claim": "a multiple", "verdict": "contradicted", "text": "cheaper",
         "evidence": {"flops": {"score": 0.5, "ratio": 0.125, "ci95": [0.1, 0.2]}, "seconds": None}},
        {"id": "rule_dense", "claim": "dense rule", "verdict": "not measurable here", "text": "no", "evidence": {}},
        {"id": "proxy_rl_check", "claim": "a reward is gamed", "verdict": "supported", "text": "gamed", "evidence": {
            "reward": difference, "gold": {**difference, "value": -0.4375, "ci95": [-0.6, -0.3]}}},
        {"id": "rule_known_best", "claim": "known rule", "verdict": word, "text": "yes", "evidence": {}},
    ]


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def lines(path: Path, values: list[Row]) -> None:
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")


def read_lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
