"""What a recipe will cost, kept with its run and scored against what the run did cost (`outdo cost`).

Every stage has two parts: "train", which its budget counts, and "overhead": evaluations, in the truth also checkpoints,
pre-flight checks and the live audit. Amounts and money are apart: a table of prices (`outdo.ledger.prices`) can price an old
estimate anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from outdo.errors import UserError
from outdo.judges.base import Judge, make_judge
from outdo.ledger import ledger
from outdo.ledger.prices import Machine, Prices, load
from outdo.recipe import STAGE, Recipe
from outdo.runs.check import Checked, unanswered
from outdo.runs.plan import Plan, StagePlan
from outdo.runs.resolve import compute_device
from outdo.system import files
from outdo.types import Asked

FILE = "cost.json"
PARTS = ("train", "overhead")
AMOUNTS = ("flops", "seconds", "judge_calls", "money")
_EXAMPLES = 8  # prompts that say how much a judge reads


# --- the estimate ----------------------------------------------------------------------------------------------------


def estimate(checked: Checked, plan: Plan) -> dict[str, Any]:
    """Of the whole recipe, without money. JSON-serialisable."""
    recipe, device = checked.recipe, compute_device(checked.recipe)
    stages = {s.name: _estimated(checked, plan, s) for s in plan.stages}
    return {"made": date.today().isoformat(), "peak_flops": plan.peak_flops,
            "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "recipe": recipe.name, "stages": stages}


def _estimated(checked: Checked, plan: Plan, s: StagePlan) -> dict[str, Any]:
    recipe, stage = checked.recipe, checked.recipe.stage[s.name]
    beside = recipe.jobs > 1 and not recipe.alone(s.name)  # it gets a share of the threads that the plan's speed was measured on
    threads = max(1, plan.threads // recipe.jobs) if beside else plan.threads
    named = getattr(stage, "judge", None)
    judge = checked.judge if named is None else make_judge(named) if STAGE not in str(named.options) else None
    group, samples = getattr(stage, "group_size", 1), recipe.evaluation.samples
    asked = _asked(checked, judge, group, s.judge_calls)
    measured = [_asked(checked, j, samples, s.evaluation_episodes) for j in _different(judge, checked.gold)]
    return {
        "train": _part(s.flops, s.seconds * plan.threads / threads, threads, s.judge_calls, asked),
        "overhead": _part(s.evaluation_flops, s.evaluation_seconds * plan.threads / threads, threads, 2 * s.evaluation_episodes,
                          [a for each in measured for a in each]),
    }


def _different(judge: Judge | None, gold: Judge) -> list[Judge]:
    """Who is paid in evaluations: a judge that asks the same thing twice has the answer in its cache."""
    same = judge is not None and type(judge) is type(gold) and judge.config == gold.config
    return [gold] if judge is None or same else [judge, gold]


def _asked(checked: Checked, judge: Judge | None, group: int, calls: float) -> list[Asked]:
    """What so many calls of a judge ask of models behind servers."""
    if judge is None or not calls or type(judge).asks is Judge.asks:
        return []
    recipe, task = checked.recipe, checked.task
    split = recipe.evaluation.split
    n = min(_EXAMPLES, task.size(split) or _EXAMPLES)
    each = [judge.asks(unanswered(p), task.turn_tokens / 2, group) for p in task.prompts(split, n, 0)]
    return [a.times(calls / len(each)) for asked in each for a in asked]


def _part(flops: float, seconds: float, threads: int, calls: float, asked: list[Asked]) -> dict[str, Any]:
    merged: dict[str, Asked] = {}
    for a in asked:
        m = merged.get(a.model, a.times(0.0))
        merged[a.model] = replace(a, read_tokens=m.read_tokens + a.read_tokens,
                                  written_tokens=m.written_tokens + a.written_tokens)
    return {"flops": flops, "seconds": seconds, "threads": threads, "judge_calls": calls,
            "judge_tokens": sum(a.read_tokens + a.written_tokens for a in merged.values()),
            "asked": [asdict(a) for a in merged.values()]}


def moved(estimated: Mapping[str, Any], machine: Machine, name: str, prices: Prices) -> dict[str, Any]:
    """The estimate for another machine: seconds by the ratio of the speeds of a matrix product. Raises UserError."""
    if bool(machine.accelerator) == bool(estimated["accelerator"]) and (
            not machine.accelerator or machine.accelerator.lower() in estimated["accelerator"].lower()):
        return dict(estimated)
    if machine.peak_flops is None:
        raise UserError(f"--machine {name} has no peak_flops in {prices.name}, so times on it cannot be estimated from here; add "
                        "it to a file and give it with --prices FILE")
    factor = estimated["peak_flops"] / machine.peak_flops
    stages = {stage: {k: {**part, "seconds": part["seconds"] * factor} for k, part in parts.items()}
              for stage, parts in estimated["stages"].items()}
    return {**estimated, "accelerator": machine.accelerator or None, "stages": stages}


def keep(checked: Checked, plan: Plan, folder: Path) -> None:
    """Write cost.json when a run starts: the estimate, and its money by outdo's own prices where these are known."""
    if (folder / FILE).exists():
        return
    found = estimate(checked, plan)
    try:
        table = load()
        name = table.machine(None, found["accelerator"])
        money = sum(p["money"] for s in priced(found, table, name)["stages"].values() for p in s.values())
        known = {"money": money, "currency": table.currency, "machine": name, "dated": str(table.machines[name].dated)}
    except UserError as e:  # nobody asked for money
        known = {"money": None, "why": str(e)}
    files.write_json(folder / FILE, {**found, "priced": known})


# --- the truth -------------------------------------------------------------------------------------------------------


def spent(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What the ledger says of every stage, work done twice included: it was paid for. Raises UserError for damage."""
    about = files.read_json(folder / "environment.json") if (folder / "environment.json").exists() else {}
    stages = {}
    for name in recipe.stage:
        at = folder / "stages" / name
        events = ledger.read(at / "ledger.jsonl")
        threads = max((e.get("threads", 0) for e in events), default=0) or about.get("threads") or 1
        parts = {"train": [e for e in events if e["what"] == "train"], "overhead": [e for e in events if e["what"] != "train"]}
        stages[name] = {k: _booked(v, threads) for k, v in parts.items()} | {"finished": (at / "done.json").exists()}
    return {"accelerator": about.get("accelerator"), "stages": stages}


def _booked(events: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    u = ledger.total(events)
    return {"flops": u.flops, "seconds": sum(e["wall_s"] for e in events), "threads": threads, "judge_calls": u.judge_calls,
            "judge_tokens": u.judge_tokens, "judge_cost": u.judge_cost}


# --- money -----------------------------------------------------------------------------------------------------------


def priced(amounts: Mapping[str, Any], prices: Prices, machine: str,
           estimated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The amounts with money in every part: `machine_money`, `judge_money` and their sum `money`. Raises UserError.

    estimated: for what was spent, the estimate of the same run: it knows the prices of tokens that the judge gave no price.
    """
    rates = prices.machines[machine]
    stages: dict[str, Any] = {}
    for name, parts in amounts["stages"].items():
        stages[name] = dict(parts)
        for key in PARTS:
            part = parts[key]
            own = rates.money(part["seconds"], part["threads"])
            judge = _charged(part, prices, (estimated or {}).get("stages", {}).get(name))
            stages[name][key] = {**part, "machine_money": own, "judge_money": judge, "money": own + judge}
    return {**amounts, "stages": stages}


def _charged(part: Mapping[str, Any], prices: Prices, estimated: Mapping[str, Any] | None) -> float:
    """By the judges: as estimated, as booked, or, where tokens were booked without a price, by the estimate's of a token."""
    if "asked" in part:
        return sum(prices.judging(Asked(**a)) for a in part["asked"])
    if part["judge_cost"] or not part["judge_tokens"] or estimated is None:
        return float(part["judge_cost"])
    asked = [Asked(**a) for p in PARTS for a in estimated[p]["asked"]]
    tokens = sum(a.read_tokens + a.written_tokens for a in asked)
    return part["judge_tokens"] * sum(prices.judging(a) for a in asked) / tokens if tokens else 0.0


def total(priced_: Mapping[str, Any], only: set[str] | None = None) -> dict[str, float]:
    """Sums over stages (only some of them) and parts."""
    chosen = [s for n, s in priced_["stages"].items() if only is None or n in only]
    return {k: sum(s[p][k] for s in chosen for p in PARTS) for k in (*AMOUNTS, "judge_tokens", "machine_money", "judge_money")}


def ratios(truth: Mapping[str, float], estimated: Mapping[str, float]) -> dict[str, float | None]:
    """Truth over estimate, for each amount; None where nothing was estimated."""
    return {k: truth[k] / estimated[k] if estimated[k] else None for k in AMOUNTS}
