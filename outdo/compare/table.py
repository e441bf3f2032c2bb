"""Several runs of one recipe, one per seed, as one table: means over seeds and items with hierarchical intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outdo import files
from outdo.compare.evidence import Evidence
from outdo.compare.verdicts import verdicts
from outdo.errors import check
from outdo.evaluation.stats import hierarchical_interval
from outdo.ledger import ledger
from outdo.recipe import Recipe
from outdo.recipe import load as load_recipe

SHOWN = ("illegal", "excess_moves", "teacher_agreement", "optimal_agreement")


def gather(folders: Sequence[Path]) -> Evidence:
    """Evidence of finished runs of the same recipe. Raises UserError where they do not belong together."""
    check(bool(folders), "no run folder given; give one per seed")
    recipes = [_recipe(f) for f in folders]
    first = recipes[0].model_dump(exclude={"seed"})
    for folder, recipe in zip(folders, recipes, strict=True):
        check((folder / "summary.json").exists(), f"run {folder} is not finished; go on with: outdo run --resume {folder}")
        check(recipe.model_dump(exclude={"seed"}) == first,
              f"run {folder} has another recipe than {folders[0]}; only runs that differ in their seed can be put together")
    seeds = [r.seed for r in recipes]
    check(len(set(seeds)) == len(seeds), f"two of the runs have the same seed ({seeds}); they say nothing new")
    return Evidence(folders, recipes[0])


def _recipe(folder: Path) -> Recipe:
    file = folder / "recipe.toml"
    check(file.is_file(), f"{str(folder)!r} is no run folder (it has no recipe.toml)")
    return load_recipe(file)


def rows(e: Evidence) -> list[dict[str, Any]]:
    """Players x opponents x decoding: {"name", "decode", "opponent", "value", "ci95", "n", "seeds", "spread", "extra"}."""
    out = []
    for opponent in e.opponents:
        for stage in e.recipe.order():
            for decode in ("greedy", "sampled"):
                found = e.final_rows(stage, decode, opponent)
                if found is not None:
                    out.append(_row(stage, decode, opponent, found))
        for name in dict.fromkeys(r["player"] for r in files.read_lines(e.folders[0] / "players.jsonl")):
            found = [r for f in e.folders for r in files.read_lines(f / "players.jsonl")
                     if r["player"] == name and r["opponent"] == opponent]
            # Reference players have no training seed: every run measured the same games.
            out.append(_row(name, "-", opponent, found[:1]))
    return out


def _row(name: str, decode: str, opponent: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    items = np.array([r["items"] for r in found], np.float64)
    return {
        "name": name,
        "decode": decode,
        "opponent": opponent,
        "value": float(np.nanmean(items)),
        "ci95": hierarchical_interval(items),
        "n": items.shape[1],
        "seeds": items.shape[0],
        "each": [float(np.nanmean(x)) for x in items],
        "extra": {k: _mean([r["extra"].get(k) for r in found]) for k in SHOWN},
        "judging": _mean([(r.get("judging") or {}).get("value") for r in found]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def bill(e: Evidence) -> list[dict[str, Any]]:
    """Per stage, means over seeds: FLOPs, seconds, tokens, and the share of sampled tokens that trained nothing."""
    out = []
    for stage in e.recipe.order():
        sums = [ledger.summarise(ledger.read(f / "stages" / stage / "ledger.jsonl")) for f in e.folders]
        flops = {k: float(np.mean([s["flops"][k] for s in sums])) for k in sums[0]["flops"]}
        keys = ("prefill_tokens", "decode_tokens", "train_tokens", "discarded_tokens", "judge_calls", "wall_s", "cpu_s",
                "peak_rss_bytes")
        out.append({"stage": stage, "flops": flops, **{k: float(np.mean([s[k] for s in sums])) for k in keys}})
    return out


def markdown(e: Evidence) -> str:
    """The table, the bill and the verdicts as Markdown."""
    seeds = ", ".join(str(_recipe(f).seed) for f in e.folders)
    lines = [f"Seeds {seeds}; intervals are 95 %, over seeds and starts.", ""]
    for opponent in e.opponents:
        lines += [f"**Against {opponent}** (share of games won)", "",
                  "| player | decoding | wins | 95 % interval | each seed | illegal | excess moves "
                  "| teacher's moves | tells wins |",
                  "|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(r) for r in rows(e) if r["opponent"] == opponent]
        lines.append("")
    lines += ["**The bill** (per seed, mean)", "",
              "| stage | TFLOP | of it decoding | update | tokens decoded | trained | discarded | seconds | peak memory |",
              "|---|---|---|---|---|---|---|---|---|"]
    for b in bill(e):
        total = sum(b["flops"].values())
        tokens = " | ".join(f"{b[k] / 1e6:.2f} M" for k in ("decode_tokens", "train_tokens", "discarded_tokens"))
        lines.append(f"| {b['stage']} | {total / 1e12:.1f} | {_share(b['flops']['decode'], total)} | "
                     f"{_share(b['flops']['update'], total)} | {tokens} | {b['wall_s']:.0f} | "
                     f"{b['peak_rss_bytes'] / 1e9:.1f} GB |")
    lines += ["", "**Verdicts**", ""]
    lines += [f"- *{v['claim']}*: **{v['verdict']}**. {v['text']}" for v in verdicts(e.folders, e.recipe)]
    return "\n".join(lines) + "\n"


def _line(r: dict[str, Any]) -> str:
    x, (low, high) = r["extra"], r["ci95"]
    each = " / ".join(f"{100 * v:.1f}" for v in r["each"])
    return (f"| {r['name']} | {r['decode']} | **{100 * r['value']:.1f} %** | {100 * low:.1f} to {100 * high:.1f} | {each} | "
            f"{_percent(x['illegal'])} | {_number(x['excess_moves'])} | {_percent(x['teacher_agreement'])} | "
            f"{_percent(r['judging'])} |")


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.1f} %"


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.1f}"
