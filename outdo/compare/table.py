"""Several runs of one recipe, one per seed, as one table: means over seeds and items with hierarchical intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outdo.compare import forgetting, losses
from outdo.compare.evidence import Evidence, Items, items
from outdo.compare.verdicts import verdicts
from outdo.compare.words import rate, score
from outdo.errors import check
from outdo.evaluation.stats import hierarchical_interval, pass_at_k
from outdo.ledger import ledger
from outdo.recipe import Recipe
from outdo.recipe import load as load_recipe
from outdo.system import files

SHOWN = ("illegal", "excess_moves", "teacher_agreement", "optimal_agreement")


def gather(folders: Sequence[Path]) -> Evidence:
    """Evidence of finished runs of the same recipe. Raises UserError where they do not belong together."""
    check(bool(folders), "no run folder given; give one per seed")
    recipes = [_recipe(f) for f in folders]
    for folder, recipe in zip(folders, recipes, strict=True):
        check_finished(folder)
        check(same_recipe(recipe, recipes[0]), f"run {folder} has another recipe than {folders[0]}; give runs that differ only "
              "in their seed, or two runs alone to compare the ends of their stages")
    seeds = [r.seed for r in recipes]
    check(len(set(seeds)) == len(seeds), f"two of the runs have the same seed ({seeds}); they say nothing new")
    return Evidence(folders, recipes[0])


def different(folders: Sequence[Path]) -> bool:
    """Whether these are two runs whose recipes differ in more than the seed. Raises UserError for what is no run folder."""
    return len(folders) == 2 and not same_recipe(*(_recipe(f) for f in folders))


def one(folder: Path) -> Evidence:
    """Evidence of a single run. Raises UserError for one that is not finished."""
    check_finished(folder)
    return Evidence([folder], _recipe(folder))


def check_finished(folder: Path) -> None:
    check((folder / "summary.json").exists(), f"run {folder} is not finished; resume with: outdo run --resume {folder}")


def same_recipe(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes differ in nothing but the seed."""
    return a.model_dump(exclude={"seed"}) == b.model_dump(exclude={"seed"})


def _recipe(folder: Path) -> Recipe:
    file = folder / "recipe.toml"
    check(file.is_file(), f"{str(folder)!r} is not a run folder (it has no recipe.toml)")
    return load_recipe(file)


def rows(e: Evidence) -> list[dict[str, Any]]:
    """Players x opponents x decoding: {"name", "decode", "opponent", "value", "ci95", "n", "seeds", "each", "extra", ...}."""
    out = [_row(name, decode, e.opponents[0], found) for decode in ("greedy", "sampled")
           for name, found in e.start_rows(decode).items()]
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


def costs(e: Evidence) -> list[dict[str, Any]]:
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
    """Scores, cost and verdicts as Markdown."""
    seeds, games = ", ".join(str(_recipe(f).seed) for f in e.folders), e.counted == "games"
    lines = [f"Seeds {seeds}; intervals are 95 %, over seeds and {'starts' if games else 'questions'}.", ""]
    for split in [] if games else [None, *e.recipe.evaluation.also]:
        lines += [*answers(e, split), ""]
    for opponent in e.opponents if games else []:
        lines += [f"**Against {opponent}** (share of games won)", "",
                  "| player | decoding | wins | 95 % interval | each seed | illegal | excess moves "
                  "| teacher's moves | tells wins |",
                  "|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(r) for r in rows(e) if r["opponent"] == opponent]
        lines.append("")
    if read := forgetting.rows(e):
        lines += [f"**Forgetting** (nats per token on the corpus, {read[0]['n']} passages, {read[0]['tokens']:,} tokens)", "",
                  "| player | nats | 95 % interval | since the start | 95 % interval |", "|---|---|---|---|---|"]
        lines += [f"| {r['name']} | **{r['value']:.3f}** | {_range(r['ci95'])} | {_change(r['change'])} |" for r in read] + [""]
    if lost := losses.rows(e):
        lines += [f"**Loss on held-out rows** (nats per trained token, {lost[0]['n']} rows, {lost[0]['tokens']:,} tokens)", "",
                  "| stage | nats | 95 % interval | each seed | since its start | 95 % interval |", "|---|---|---|---|---|---|"]
        lines += [f"| {r['stage']} | **{r['value']:.3f}** | {_range(r['ci95'])} | {' / '.join(f'{x:.3f}' for x in r['each'])} | "
                  f"{_change(r['change'])} |" for r in lost] + [""]
    lines += ["**Cost** (per seed, mean)", "",
              "| stage | TFLOP | of it decoding | update | tokens decoded | trained | discarded | seconds | peak memory |",
              "|---|---|---|---|---|---|---|---|---|"]
    for b in costs(e):
        total = sum(b["flops"].values())
        tokens = " | ".join(f"{b[k] / 1e6:.2f} M" for k in ("decode_tokens", "train_tokens", "discarded_tokens"))
        lines.append(f"| {b['stage']} | {total / 1e12:.1f} | {_share(b['flops']['decode'], total)} | "
                     f"{_share(b['flops']['update'], total)} | {tokens} | {b['wall_s']:.0f} | "
                     f"{b['peak_rss_bytes'] / 1e9:.1f} GB |")
    lines += ["", "**Verdicts**", ""]
    lines += [f"- *{v['claim']}*: **{v['verdict']}**. {v['text']}" for v in verdicts(e.folders, e.recipe)]
    return "\n".join(lines) + "\n"


def answers(e: Evidence, split: str | None) -> list[str]:
    """A table of how the questions of a split (None: the evaluation's own) are answered: greedy, sampled, best of k samples."""
    samples, title = e.recipe.evaluation.samples, {"answers": "share right", "scores": "mean score"}[e.counted]
    ks = [k for k in (4, 16, 64, 256) if k <= samples and e.counted == "answers"]
    first = (e.final_rows(n, "greedy", split=split) for n in e.recipe.order())
    n = next((len(rows[0]["items"]) for rows in first if rows), 0)
    more = chosen(e, split)
    heads = ["greedy", "pass@1, sampled" if ks else "sampled", *(f"pass@{k}" for k in ks), *more]
    lines = [f"**{split or e.recipe.evaluation.split}** ({title}, {n} questions, {samples} samples of each)", "",
             f"| player | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    sampled = {**e.start_rows("sampled", split), **{n: e.final_rows(n, "sampled", split=split) for n in e.recipe.order()}}
    greedy = {**e.start_rows("greedy", split), **{n: e.final_rows(n, "greedy", split=split) for n in e.recipe.order()}}
    for name in sampled:
        found, best = sampled[name], greedy[name]
        if found and best:
            cells = [_each(e, items(best)), _each(e, items(found)), *(_each(e, _pass_at(items(found), samples, k)) for k in ks),
                     *(_each(e, items(found, key)) if all(key in r.get("chosen", {}) for r in found) else "-" for key in more)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if more:
        lines += ["", "best@k is the best of k answers by the training judge, majority@k the one given most often: what k times "
                  "the cost of an answer buys without training."]
    return lines


def chosen(e: Evidence, split: str | None) -> list[str]:
    """The columns best@k and majority@k that the evaluations hold."""
    rows = [r for n in e.recipe.order() for r in e.final_rows(n, "sampled", split=split) or ()]
    return list(dict.fromkeys(key for r in rows for key in r.get("chosen", {})))


def _each(e: Evidence, x: Items) -> str:
    """Mean and interval; with several seeds also what each of them had."""
    each = " / ".join(score(e, float(np.nanmean(seed))) for seed in x) if len(x) > 1 else ""
    return f"{rate(e, x)}{f' ({each})' * bool(each)}"


def _pass_at(means_SN: Items, samples: int, k: int) -> Items:
    """pass@k of questions of which the share `means` of the samples is right."""
    right = np.rint(means_SN * samples)
    scores = (np.arange(samples) < right[..., None]).astype(np.float64)
    return np.where(np.isnan(means_SN), np.nan, pass_at_k(scores.reshape(-1, samples), k).reshape(means_SN.shape))


def _range(ci95: Sequence[float] | None, sign: str = "") -> str:
    return "-" if ci95 is None else f"{ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f}"


def _change(change: dict[str, Any] | None) -> str:
    return "- | -" if change is None else f"{change['value']:+.3f} | {_range(change['ci95'], '+')}"


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
