"""Results in the terminal: tables of scores with intervals, losses, forgetting and how fast updates ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from outdo.report import notes
from outdo.system.environment import thread_peak_flops
from outdo.system.progress import duration


def results(summary: dict[str, Any]) -> RenderableType:
    """summary.json's players: one row per player and decoding, one column per opponent and further split; losses, forgetting."""
    players = summary["players"]
    lost = [Text(_loss(row), no_wrap=True, overflow="ignore") for row in summary.get("losses", [])]
    read = [*(Text(line) for line in notes.lines(summary)),
            *(Text(f"{r['name']}: {forgotten(r)}", style="dim") for r in summary.get("forgetting", []))]
    if not players:
        said = f"{summary['recipe']}: done" + ("" if lost else "; nothing was measured")
        return Group(Text(said, no_wrap=True, overflow="ignore"), *lost, *read)
    main = players[0].get("split")
    cells = [((p["name"], p["decode"]), _against(p["extra"]["opponent"]) if p.get("split") == main else p["split"], p)
             for p in players]
    last = [Text(summary["conclusion"])] if summary.get("conclusion") else []
    return Group(_pivot(cells, f"{summary['task']}: {summary['recipe']}, seed {summary['seed']}"), _costs(summary), *lost, *read,
                 *last)


def _costs(summary: dict[str, Any]) -> RenderableType:
    """What each stage cost, in the recipe's order."""
    table = Table(title="cost of each stage, evaluations apart", title_justify="left")
    for header in ("stage", "FLOPs", "time", "sampled tokens", "judge calls"):
        table.add_column(header, justify="left" if header == "stage" else "right")
    for name, bill in summary["ledger"].items():
        flops = sum(v for v in bill["flops"].values() if isinstance(v, int | float))
        table.add_row(name, f"{flops:.2g}", duration(bill["wall_s"]), f"{bill['decode_tokens']:,}", f"{bill['judge_calls']:,}")
    return table


def _loss(row: dict[str, Any]) -> str:
    """A stage's loss in words, with 95 % intervals where there is more than one row."""
    level, change = (f"{x['value']:{sign}.3f}" + ("" if x["ci95"] is None else f" ({x['ci95'][0]:.3f} to {x['ci95'][1]:.3f})")
                     for x, sign in ((row, ""), (row["change"], "+")))
    return f"{row['stage']}: loss {level} nats a token on {row['n']} held-out rows, {change} since its start"


def forgotten(r: dict[str, Any]) -> str:
    """A row of summary.json's forgetting in words: the loss on the corpus with 95 % interval, and its change since the start."""
    said, change = f"{r['value']:.3f} nats a token on the corpus ({r['ci95'][0]:.3f} to {r['ci95'][1]:.3f})", r["change"]
    if change:
        said += f", {change['value']:+.3f} ({change['ci95'][0]:+.3f} to {change['ci95'][1]:+.3f}) since the start"
    return said


def utilisation(summary: dict[str, Any], environment: dict[str, Any]) -> str:
    """How fast all stages' updates ran on a core that they had, and which share of the peak measured at the start that is."""
    bills = list(summary["ledger"].values())
    seconds = sum(b.get("update_core_s") or b["update_s"] * (b["threads"] or environment.get("threads") or 1) for b in bills)
    rate = sum(b["flops"]["update"] for b in bills) / seconds if seconds else 0.0
    peak = thread_peak_flops(environment)
    share = f", {rate / peak:.0%} of the matrix-product peak measured at the start ({peak / 1e9:,.0f})" if peak else ""
    return f"updates: {rate / 1e9:,.0f} GFLOP/s a core{share}; {sum(b['wall_s'] for b in bills):,.0f} s for all stages"


def measured(records: Sequence[dict[str, Any]]) -> RenderableType:
    """Records of `outdo.runs.reopen.measurements`."""
    first = records[0]
    cells = [(("model", r["decode"]), _against(r["opponent"]), r) for r in records]
    return _pivot(cells, f"{first['task']}: {first['checkpoint']}")


def _against(opponent: str) -> str:
    return "score" if opponent == "none" else f"vs {opponent}"


def _pivot(cells: Sequence[tuple[tuple[str, str], str, dict[str, Any]]], title: str) -> RenderableType:
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    sizes = sorted({c["n"] for _, _, c in cells})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    table = Table()
    for header in ("player", "decoding", *columns):
        table.add_column(header, justify="left" if header in ("player", "decoding") else "right")
    for row in dict.fromkeys(row for row, _, _ in cells):
        found = {column: c for r, column, c in cells if r == row}
        table.add_row(*row, *(_interval(found[c]) if c in found else "" for c in columns))
    # Beside the table, not in it: there they would wrap at its width.
    heading = Text(title, no_wrap=True, overflow="ignore")
    metric = {str(c.get("metric", "win")).split(" vs ")[0] for _, _, c in cells} or {"score"}
    words = {"win": "share won", "gold": "mean score by the gold judge"}
    what = " and ".join(words.get(m, m) for m in sorted(metric))
    return Group(heading, table, Text(f"{what} with 95 % interval, n = {n} prompts each", style="dim"))


def _interval(c: dict[str, Any]) -> str:
    """In percent where every answer counts 0 or 1; a reward may be any number."""
    value, low, high = numbers = [c["value"], *c["ci95"]]
    if None in numbers:
        return "no score"
    if not c.get("share", min(numbers) >= 0 and max(numbers) <= 1):
        return f"{value:.3g} ({low:.3g} to {high:.3g})"
    return f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})"
