"""A small run folder of a task of text written by hand: smollm2 -> sft -> (sft_more, rl), questions, harder ones, a corpus.

As in `report_folder`, `word` stands in every place where a run writes a free string.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import report_folder as made
import tomli_w

Row = dict[str, Any]
START = "smollm2 (start)"
# share right of the samples, before and after each stage; greedy is a tenth better, harder questions a quarter of it
SCORES = {"sft": (0.0, 0.3), "sft_more": (0.3, 0.35), "rl": (0.3, 0.5)}
NATS = {START: 3.985, "sft": 4.1, "sft_more": 4.4, "rl": 4.15}
N = 100


def make(folder: Path, word: str = "word", most: float = 1.0, finished: bool = True) -> Path:
    """Write the folder. most: what a right answer scores."""
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe(word)), encoding="utf-8")
    made.write(folder / "environment.json", {"outdo": "0.1.0", "command": ["outdo", "run", word], "threads": 1})
    gold = {"player": "gold", **row(1.0, most, "none", "heldout", "greedy")}
    made.lines(folder / "players.jsonl", [gold])
    for name in SCORES:
        stage(folder / "stages" / name, name, word, most)
    if finished:
        made.write(folder / "summary.json", summary(folder, gold))
    return folder


def recipe(word: str) -> Row:
    task = {"name": "reasoning_gym", "dataset": "chain_sum", "harder": {"min_terms": 4}, "system": word, "answer_tag": ""}
    sft = {"kind": "sft", "flops": 4e9, "player": "gold"}
    return {"name": "sums", "task": task, "evaluation": {"also": ["harder"], "corpus": "builtin", "samples": 16, "points": 1},
            "stage": {"sft": {**sft, "from": "smollm2"}, "sft_more": {**sft, "from": "sft"},
                      "rl": {"kind": "rl", "from": "sft", "flops": 4e9}}}


def stage(folder: Path, name: str, word: str, most: float) -> None:
    folder.mkdir(parents=True)
    spent = {"step": 0, "what": "train", "decode_tokens": 20, "decode_flops": 4e8, "update_flops": 1e9, "wall_s": 3.0}
    made.lines(folder / "ledger.jsonl", [spent])
    made.lines(folder / "metrics.jsonl", [{"step": 0, "flops": 1.4e9, "nll": 1.0, "reward": 0.5, "entropy": 1.0}])
    rows = []
    for point, value in enumerate(SCORES[name]):
        for split in ("heldout", "harder") if point or name == "sft" else ("heldout",):
            for decode in ("sampled", "greedy"):
                share = (value + 0.1 * (decode == "greedy")) * (0.25 if split == "harder" else 1.0)
                rows.append({"step": point, "point": point, "flops": 1.4e9 * point, "last": point == 1, "judging": None,
                             **row(share, most, "none", split, decode)})
    made.lines(folder / "evaluations.jsonl", rows)
    ends = [(START, 0), (name, 1)] if name == "sft" else [(name, 1)]
    made.lines(folder / "forgetting.jsonl", [{"step": p, "point": p, "last": p == 1, **nats(NATS[who])} for who, p in ends])
    made.lines(folder / "rollouts.jsonl", [answer(i, decode, word, most) for decode in ("sampled", "greedy") for i in range(8)])
    made.write(folder / "done.json", {"step": 1, "checkpoint": "checkpoints/1"})


def row(share: float, most: float, opponent: str, split: str, decode: str) -> Row:
    extra = {"finished": 1.0, "tokens": 3.0, "reward": most * share, "gold": most * share}
    ci: Row = {}
    if decode == "sampled":
        extra |= {"pass@1": share, "pass@4": share + 0.2, "pass@16": share + 0.4}
        ci = {k: [extra[k] - 0.05, extra[k] + 0.05] for k in ("pass@1", "pass@4", "pass@16")}
    right = round(N * share)
    return {"metric": "gold", "opponent": opponent, "split": split, "decode": decode, "value": most * share, "n": N,
            "ci95": [max(0.0, most * (share - 0.08)), min(most, most * (share + 0.08))], "extra": extra, "extra_ci95": ci,
            "items": [most] * right + [0.0] * (N - right)}


def nats(value: float) -> Row:
    return {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 30, "tokens": 3810, "corpus": "builtin", "sha256": "0",
            "items": [value] * 30}


def answer(i: int, decode: str, word: str, most: float) -> Row:
    """Every other one is right; the last one was cut."""
    score = {"value": most * (i % 2), "reason": word}
    info = {"prompt": f"What is {i} + {i}?", "question": f"What is {i} + {i}? {word}", "answer": f"{2 * i} {word}",
            "completion": f"{2 * i + 1 - i % 2} {word}"}
    return {"step": 1, "source": f"evaluate/{decode}", "prompt_id": f"{word}/{i}", "sample": 0, "policy_version": 1, "text": word,
            "finish": "length" if i == 7 else "stop", "info": info, "score": score, "gold": score, "replay": []}


def summary(folder: Path, gold: Row) -> Row:
    players = []
    for name in SCORES:
        for e in made.read_lines(folder / "stages" / name / "evaluations.jsonl"):
            if e["last"] or name == "sft":
                who, where = (name, name) if e["last"] else (START, None)
                players.append({**made.player(who, where, e["decode"], e), **{k: e[k] for k in ("split", "extra_ci95")}})
    players.append({**made.player("gold", None, "greedy", gold), "split": "heldout", "extra_ci95": {}})
    players = [{**p, "metric": "gold vs none"} for p in players]
    forgotten = [{"name": START, "stage": None, **nats(NATS[START]), "seeds": 1, "change": None}]
    for name in SCORES:
        change = NATS[name] - NATS[START]
        forgotten.append({"name": name, "stage": name, **nats(NATS[name]), "seeds": 1,
                          "change": {"value": change, "ci95": [change - 0.01, change + 0.01]}})
    verdict = {"id": "forgets_less", "claim": "less", "verdict": "supported", "text": "so it is", "evidence": {}}
    bill = {"flops": {"decode": 4e8, "update": 1e9}, "decode_tokens": 20, "wall_s": 3.0}
    return {"task": "reasoning_gym", "recipe": "sums", "seed": 0, "players": players, "forgetting": forgotten,
            "ledger": dict.fromkeys(SCORES, bill), "verdicts": [verdict]}
