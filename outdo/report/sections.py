"""What the templates show, section by section: plain rows and words, worked out from a run folder's data."""

from __future__ import annotations

from typing import Any

from outdo.report import format as show
from outdo.report.curves import GOLD, INK, proxy
from outdo.report.data import FLOPS, Row, RunData, Stage, flops
from outdo.report.format import number, pair

VERDICTS = ("supported", "contradicted", "not distinguishable", "not measurable here", "inconclusive")
RULES = ("rule_known_best", "rule_unknown_best", "rule_preferences", "rule_dense")  # in the page's order
ENDINGS = ("win", "stalemate", "material", "repetition", "move_limit", "illegal")  # in the stacked bars' order
# extra field -> column title, number format, what it means
COLUMNS = {
    "illegal": ("Illegal", "percent", "share of games that ended because the model wrote no legal move"),
    "excess_moves": ("Excess moves", "plain", "own moves beyond the shortest win, mean over games won"),
    "teacher_agreement": ("Teacher agreement", "percent", "share of own moves that the teacher would have played"),
    "optimal_agreement": ("Optimal moves", "percent", "share of own moves that keep the distance to the goal optimal"),
    "moves": ("Moves", "plain", "own moves per game"),
    "stalemate": ("Stalemate", "percent", "share of games drawn by stalemate"),
    "material": ("Piece lost", "percent", "share of games drawn because the winning piece was lost"),
    "repetition": ("Repetition", "percent", "share of games drawn by repetition"),
    "move_limit": ("Move limit", "percent", "share of games that ran out of moves"),
    "reward": ("Training reward", "plain", "mean score by the judge that trained the stage"),
    "gold": ("Gold", "plain", "mean score by the gold judge, which never trains"),
}
_FIRST_COLUMNS = 4  # of COLUMNS; the rest are shown on demand, but for pass@k
_SEVERAL = {  # columns of several answers to a question
    "pass": "share of questions that {} sampled answers solve",
    "best": "score of the best of {} sampled answers by the training judge",
    "majority": "score of the answer given most often among {}",
}


def verdict_class(word: object) -> str:
    """CSS class of a verdict, from a fixed list: nothing of a file's text becomes an attribute."""
    return str(word).replace(" ", "-") if word in VERDICTS else "inconclusive"


def verdicts(run: RunData) -> dict[str, list[Row]]:
    """Verdicts by place on the page: the four business rules, the price, and every other claim."""
    out: dict[str, list[Row]] = {"rules": [], "cost": [], "claims": []}
    for v in run.verdicts:
        id = str(v.get("id", ""))
        place = "rules" if id.startswith("rule_") else "cost" if id == "cost_ratio" else "claims"
        out[place].append({"id": id, "claim": str(v.get("claim", "")), "verdict": str(v.get("verdict", "")),
                           "class": verdict_class(v.get("verdict")), "text": str(v.get("text", "")),
                           "evidence": evidence(v.get("evidence"))})
    out["rules"].sort(key=lambda v: RULES.index(v["id"]) if v["id"] in RULES else len(RULES))
    return out


def tally(run: RunData) -> list[tuple[str, str, int]]:
    """How many claims got which verdict: (CSS class, verdict, count)."""
    words = [str(v.get("verdict")) if v.get("verdict") in VERDICTS else "inconclusive" for v in run.verdicts]
    return [(verdict_class(word), word, words.count(word)) for word in VERDICTS if word in words]


def evidence(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Any JSON as (label, number with interval) lines."""
    if isinstance(value, dict) and "value" in value:
        interval, n = pair(value.get("ci95")), number(value.get("n"))
        text = show.plain(value["value"])
        text += f" [{show.plain(interval[0])}, {show.plain(interval[1])}]" if interval else ""
        text += f", n = {show.count(n)}" if n is not None else ""
        return [(path, text + (f", {_seeds(value['seeds'])}" if "seeds" in value else ""))]
    if isinstance(value, dict):
        return [line for k, v in value.items() for line in evidence(v, f"{path} · {k}" if path else str(k))]
    interval = pair(value)
    if interval:
        return [(path, f"[{show.plain(interval[0])}, {show.plain(interval[1])}]")]
    if isinstance(value, list):
        return [(path, ", ".join(x if isinstance(x, str) else show.plain(x) for x in value))]
    return [] if value is None and not path else [(path, value if isinstance(value, str) else show.plain(value))]


def _seeds(value: object) -> str:
    n = len(value) if isinstance(value, list) else number(value)
    return f"{show.count(n)} training seed{'' if n == 1 else 's'}"


def _continued(run: RunData, rival: str | None, rl: str | None) -> str:
    """What the arm that imitates on is, with its cost beside reinforcement's."""
    spent = {n: sum(flops(e) for e in run.stages[n].trained) for n in (rival, rl) if n}
    if rival is None or rl is None or not all(spent.values()):
        return "the same, continued"
    same = max(spent.values()) <= 1.05 * min(spent.values())
    return "the same, continued for the FLOPs that reinforcement took" if same else (
        f"the same, continued for {spent[rival]:.2g} FLOPs (reinforcement took {spent[rl]:.2g})")


def headline(run: RunData) -> list[Row]:
    """The big numbers: the teacher, imitation, reinforcement, and its rivals from the same start."""
    config = run.recipe.stage
    rl = next((n for n, s in config.items() if s.kind == "rl" and not proxy(run, run.stages[n]) and s.source), None)
    rl = rl or next((n for n, s in config.items() if s.kind == "rl"), None)
    source = config[rl].source if rl else None
    sfts = [n for n, s in config.items() if s.kind == "sft"]
    imitation = source if source in sfts else next(iter(sfts), None)
    rival = next((n for n in sfts if rl and n != imitation and config[n].source == source), None)
    rejection = next((n for n, s in config.items() if s.kind == "rejection" and s.source == source), None)
    cards: list[Row] = [{"role": "The teacher", "name": run.teacher, "colour": INK, "stage": None,
              "note": "plays by a fixed rule; imitation copies it"}] if run.teacher != GOLD else []
    begun = next((p["name"] for p in run.players if str(p["name"]).endswith("(start)")), None)
    if begun:
        cards.append({"role": "Before training", "name": begun, "colour": INK, "stage": None, "note":
                      "the checkpoint as it is"})
    for role, name, note in (("Imitation (SFT)", imitation, run.words.imitates),
                             ("More imitation", rival, _continued(run, rival, rl)),
                             ("Rejection", rejection, run.words.own),
                             ("Reinforcement (RL)", rl, run.words.reinforces)):
        if name:
            cards.append({"role": role, "name": name, "colour": run.stages[name].colour, "stage": name, "note": note})
    for card in cards:
        card["so_far"] = bool(card["stage"]) and not run.stages[card["stage"]].done
        card["values"] = [_big(p) for p in run.players if p["stage"] == card["stage"] and p["name"] == card["name"]
                          and p["extra"].get("opponent") == run.opponent]
    return [c for c in cards if c["values"] or c["stage"]]


def _big(p: Row) -> Row:
    return {"decode": str(p["decode"]), "value": p["value"], "ci95": p["ci95"], "n": p["n"],
            "fixed": p["stage"] is None and not str(p["name"]).endswith("(start)")}


def table(run: RunData) -> dict[str, Any]:
    """All players: columns that at least one row fills, and rows for the template."""
    present = [k for k in COLUMNS if any(number(p["extra"].get(k)) is not None for p in run.players)]
    other = sorted({k for p in run.players for k, v in p["extra"].items() if number(v) is not None} - set(COLUMNS))
    several = [k for kind in _SEVERAL for k in sorted(other, key=_several) if k.startswith(f"{kind}@") and k != "pass@1"]
    other = [k for k in other if not _several(k)]
    first = [*list(COLUMNS)[:_FIRST_COLUMNS], *several]
    described = {k: (k.replace("_", " "), "plain", "as the task reports it") for k in other} | COLUMNS
    form = "percent" if run.shares else "plain"
    described |= {k: (k, form, f"{_SEVERAL[kind].format(n)}, with 95 % interval") for k in several for kind, n in _several(k)}
    columns = [{"key": k, "title": described[k][0], "format": described[k][1], "note": described[k][2],
                "more": k not in first} for k in [*several, *present, *other]]
    rows = []
    for p in run.players:
        judging = p["extra"].get("judging")
        stage = run.stages.get(str(p["stage"]))
        rows.append({
            "name": str(p["name"]), "colour": stage.colour if stage else None, "so_far": bool(stage and not stage.done),
            "decode": str(p["decode"]), "opponent": str(p["extra"].get("opponent", "none")),
            "value": p["value"], "ci95": p["ci95"], "n": p["n"],
            "seeds": p["seeds"] if isinstance(p["seeds"], list) else [],
            "cells": [number(p["extra"].get(c["key"])) for c in columns],
            "intervals": [pair(p["extra_ci95"].get(c["key"])) for c in columns],
            "judging": number(judging.get("value")) if isinstance(judging, dict) else None,
            "judging_ci": pair(judging.get("ci95")) if isinstance(judging, dict) else None,
            "judging_n": number(judging.get("n")) if isinstance(judging, dict) else None,
        })
    opponents = list(dict.fromkeys([run.opponent, *(r["opponent"] for r in rows)]))
    return {"columns": columns, "rows": rows, "opponents": opponents != ["none"],
            "opponent_choices": [*([o, o] for o in opponents), ["", "all"]],
            "judging": any(r["judging"] is not None for r in rows), "more": any(c["more"] for c in columns)}


def _several(key: str) -> list[tuple[str, int]]:
    """[("pass", 4)] of "pass@4"; empty for other columns."""
    kind, _, n = key.partition("@")
    return [(kind, int(n))] if kind in _SEVERAL and n.isdigit() else []


def scale(run: RunData) -> tuple[float, float]:
    """From where to where the bars under scores run."""
    ends = [x for p in [*run.players, *run.further] for x in (p["value"], *(p["ci95"] or ())) if x is not None]
    return (0.0, 1.0) if run.shares or not ends else (min(ends), max(*ends, min(ends) + 1e-6))


def bill(run: RunData) -> dict[str, Any]:
    """What each stage spent, and the widths of its bars relative to the dearest stage."""
    environment = run.environment
    peaks, dtype = environment.get("gemm_peak_flops_per_s"), environment.get("compute_dtype")
    peak = number(peaks.get(dtype)) if isinstance(peaks, dict) else None
    threads = number(environment.get("threads")) or 1.0
    rows = []
    for name, entry in run.ledger.items():
        kinds = found if isinstance(found := entry.get("flops"), dict) else {}
        parts = [(k, number(kinds.get(k)) or 0.0) for k in FLOPS]
        total = sum(x for _, x in parts)
        by_clock = (number(entry.get("update_s")) or 0.0) * (number(entry.get("threads")) or threads)
        stage = run.stages.get(name)
        seconds = number(entry.get("update_core_s")) or by_clock
        rows.append({**entry, "name": name, "parts": parts, "total": total, "colour": stage.colour if stage else 0,
                     "done": bool(stage and stage.done), "started": bool(stage and stage.started) or total > 0,
                     "peak_share": dict(parts)["update"] / seconds / (peak / threads) if seconds and peak else None})
    rows = [r for r in rows if r["started"]]
    most = max((r["total"] for r in rows), default=0.0) or 1.0
    slowest = max((_seconds_of(r) for r in rows), default=0.0) or 1.0
    for r in rows:
        r["widths"] = [(k, 100 * x / most, x) for k, x in r["parts"] if x > 0]
        r["second_widths"] = [(k, 100 * (number(r.get(k)) or 0.0) / slowest, number(r.get(k)) or 0.0)
                              for k in ("wall_s", "overhead_wall_s")]
    fields = ("prefill_tokens", "decode_tokens", "train_tokens", "discarded_tokens", "judge_calls", "judge_tokens",
              "judge_cost", "wall_s",
              "overhead_wall_s", "redone_wall_s", "redone_flops")
    sums = {f: sum(number(r.get(f)) or 0.0 for r in rows) for f in fields}
    return {"rows": rows, "sums": {**sums, "total": sum(r["total"] for r in rows)}, "peak": peak, "dtype": dtype}


def _seconds_of(row: Row) -> float:
    return (number(row.get("wall_s")) or 0.0) + (number(row.get("overhead_wall_s")) or 0.0)


def gap(run: RunData) -> list[Row]:
    """Per stage: how often it recognises a win, and how often it wins against the first opponent, by decoding."""
    out = []
    for stage in run.stages.values():
        mine = [p for p in run.players if p["stage"] == stage.name and p["extra"].get("opponent") == run.opponent]
        judged = next((p["extra"]["judging"] for p in mine if isinstance(p["extra"].get("judging"), dict)), None)
        if judged and number(judged.get("value")) is not None:
            wins = [{"decode": str(p["decode"]), "value": p["value"], "ci95": p["ci95"]} for p in mine]
            out.append({"name": stage.name, "colour": stage.colour, "judging": number(judged["value"]),
                        "judging_ci": pair(judged.get("ci95")), "pairs": judged.get("n"),
                        "wins": [w for w in wins if w["value"] is not None], "n": mine[0]["n"]})
    return out


def gaming(run: RunData, stage: Stage) -> dict[str, Any]:
    """What happened to reward and gold while `stage` was trained on another judge than the gold one; sampled play."""
    rows = [e for e in stage.evaluations if e.get("decode") == "sampled" and e.get("opponent") == run.opponent]
    ends = [e["extra"] for e in (rows[0], rows[-1])] if rows else [{}, {}]
    found = next((v.get("evidence") for v in run.verdicts if v.get("id") == f"proxy_{stage.name}"), None)
    paired = found if isinstance(found, dict) else {}  # of the same prompts before and after, as the verdict says it
    changes = {k: _change(number(ends[0].get(k)), number(ends[1].get(k)), paired.get(k)) for k in ("reward", "gold")}
    title = ", ".join(f"{what} {_in_words(change)}" for what, change in changes.items())
    return {"name": stage.name, "judge": stage.judge.name if stage.judge else "", "gold_name": run.recipe.gold.name,
            "colour": stage.colour, "title": title[:1].upper() + title[1:],
            "gamed": changes["reward"]["word"] == "up" and changes["gold"]["word"] == "down", **changes,
            "endings": [_endings(e) for e in (rows[:1] + rows[-1:] if len(rows) > 1 else rows)]}


def _change(before: float | None, after: float | None, paired: Any) -> Row:
    """paired: the difference with its interval, {"value", "ci95", "n"}, where the run has written one."""
    found = paired if isinstance(paired, dict) else {}
    value, interval = number(found.get("value")), pair(found.get("ci95"))
    if value is None or interval is None:
        return {"before": before, "after": after, "word": "unknown", "said": ""}
    word = "up" if interval[0] > 0 else "down" if interval[1] < 0 else "not distinguishable"
    said = f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}], n = {show.count(number(found.get('n')))}, paired"
    return {"before": before, "after": after, "word": word, "said": said}


def _in_words(change: Row) -> str:
    known = change["word"] != "unknown"
    return str(change["word"]) if known else f"{show.plain(change['before'])} → {show.plain(change['after'])}"


def _endings(e: Row) -> Row:
    """Shares of how games ended at one evaluation."""
    extra = {**e["extra"], "win": e.get("value")}
    shares = [(k, max(0.0, number(extra.get(k)) or 0.0)) for k in ENDINGS]
    total = max(sum(x for _, x in shares), 1.0)
    return {"step": e.get("step"), "shares": [(k, 100 * x / total, x) for k, x in shares if x > 0]}
