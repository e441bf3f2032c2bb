"""`outdo cost`: what a recipe will cost, or what a run did cost, in money."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outdo.cli import common
from outdo.errors import check

if TYPE_CHECKING:
    from rich.table import Table

    from outdo.ledger.prices import Prices


def cost(
    what: Annotated[str, typer.Argument(metavar="RECIPE | RUN", help="A recipe (file or name): what it will cost. A run folder: "
                                        "what it did cost, beside the estimate from its start.")],
    set_: common.Overrides = None,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own table of prices (default: outdo's dated "
                                                "examples).")] = None,
    machine: Annotated[str | None, typer.Option(help="Name of the machine in the table (default: found by the device's name). A "
                                                "recipe's times are scaled to it.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers to this file.")] = None,
) -> None:
    """Show what a recipe will cost, or what a run did cost: FLOPs, time, judge calls and money.

    [bold]Examples[/]

    outdo cost chess_endgame

    outdo cost my_recipe.toml --machine h100 --prices my_prices.toml

    outdo cost runs/chess_endgame-1
    """
    from outdo.ledger import prices as tables
    from outdo.system import files

    check(json is None or json.parent.is_dir(), f"--json {str(json)!r}: its folder does not exist; make it first")
    table, run = tables.load(prices), Path(what)
    if (run / "recipe.toml").is_file():
        check(not set_, "--set changes a recipe, and a run has been made; leave it out")
        found = _of_run(run, table, machine)
    else:
        check(not run.is_dir(), f"{what!r} is not a run folder: it has no recipe.toml; give a recipe's file or name, or a run")
        found = _of_recipe(what, common.overridden(set_), table, machine)
    console = common.console()
    console.print(_table(found, what))
    for line in _notes(found, table):
        console.print(line, markup=False, highlight=False, soft_wrap=True, style="dim")
    if json is not None:
        files.write_json(json, found)


def _of_recipe(name: str, overrides: dict[str, Any], table: Prices, machine: str | None) -> dict[str, Any]:
    from outdo import recipe as recipes
    from outdo.runs import cost as costs
    from outdo.runs import plan
    from outdo.runs.check import check_recipe
    from outdo.runs.resolve import resolve

    checked = check_recipe(resolve(recipes.load(recipes.find(name), overrides)))
    amounts = costs.estimate(checked, plan.make(checked))
    chosen = table.machine(machine, amounts["accelerator"])
    amounts = costs.moved(amounts, table.machines[chosen], chosen, table)
    return {"machine": chosen, "currency": table.currency, "estimate": costs.priced(amounts, table, chosen), "spent": None}


def _of_run(run: Path, table: Prices, machine: str | None) -> dict[str, Any]:
    from outdo import recipe as recipes
    from outdo.runs import cost as costs
    from outdo.system import files

    spent = costs.spent(run, recipes.load(run / "recipe.toml"))
    estimate = files.read_json(run / costs.FILE) if (run / costs.FILE).exists() else None
    chosen = table.machine(machine, spent["accelerator"])
    out: dict[str, Any] = {"machine": chosen, "currency": table.currency, "estimate": None,
                           "spent": costs.priced(spent, table, chosen, estimate)}
    if estimate is None:
        return out
    finished = {n for n, s in spent["stages"].items() if s["finished"] and n in estimate["stages"]}
    out["estimate"] = costs.priced(estimate, table, chosen)
    sums = [costs.total(x, finished) for x in (out["spent"], out["estimate"])]
    return {**out, "finished": sorted(finished), "ratios": costs.ratios(*sums)}


def _table(found: dict[str, Any], title: str) -> Table:
    """One row for each part of each stage. With both, a cell is: estimate -> truth (truth / estimate)."""
    from rich.table import Table

    from outdo.runs.cost import PARTS, total

    estimate, spent = found["estimate"], found["spent"]
    table = Table(title=f"{title}: {'what it will cost' if spent is None else 'what it did cost'}", title_justify="left")
    sides = [x for x in (estimate, spent) if x is not None]
    columns = {"flops": "FLOPs", "seconds": "time", "judge_calls": "judge calls", "judge_tokens": "judge tokens",
               "money": f"money, {found['currency']}"}
    if not any(total(x)["judge_tokens"] for x in sides):
        del columns["judge_tokens"]
    for header in ("stage", *columns.values()):
        table.add_column(header, justify="left" if header == "stage" else "right")
    for name in sides[-1]["stages"]:
        finished = spent is None or spent["stages"][name]["finished"]
        labels = {"train": name if finished else f"{name} (not finished)", "overhead": "  evaluations, saving"}
        for part in PARTS:
            both = [x["stages"][name][part] for x in sides if name in x["stages"]]
            table.add_row(labels[part], *_cells(columns, both, finished))
    table.add_section()
    whole = spent is None or len(found.get("finished", ())) == len(spent["stages"])
    table.add_row("all", *_cells(columns, [total(x) for x in sides], whole))
    return table


def _cells(keys: Iterable[str], sides: list[Any], comparable: bool) -> list[str]:
    """sides: an estimate, a truth, or both."""
    from outdo.system.progress import duration

    def form(key: str, x: float) -> str:
        if key == "seconds":
            return duration(x) if x >= 10 else f"{x:.1f} s"
        if key == "money":
            return f"{x:,.2f}" if x >= 0.005 or not x else "<0.01"
        return f"{x:.2g}" if key == "flops" else f"{x:,.0f}"

    out = []
    for key in keys:
        values = [x[key] for x in sides]
        ratio = f" ({values[1] / values[0]:.3g})" if len(values) == 2 and values[0] and comparable else ""
        out.append(" -> ".join(form(key, v) for v in values) + ratio if any(values) else "0")
    return out


def _notes(found: dict[str, Any], table: Prices) -> list[str]:
    m = table.machines[found["machine"]]
    out = [f"{found['machine']}: {m.price:g} {found['currency']} a {m.unit} ({table.name}, {m.dated}; {m.source})"]
    if found["spent"] is None:
        return [*out, "an estimate: FLOPs from the recipe, time from assumed utilisation, judge tokens from the first prompts"]
    if found["estimate"] is None:
        return [*out, "no cost.json: this run was started without an estimate, so nothing can be compared"]
    said = {"flops": "FLOPs", "seconds": "time", "judge_calls": "judge calls", "money": "money"}
    scored = ", ".join(f"{said[k]} {v:.3g}" for k, v in found["ratios"].items() if v is not None) or "none is finished"
    return [*out, f"estimate of {found['estimate']['made']} -> truth; truth / estimate over the finished stages "
            f"({len(found['finished'])} of {len(found['spent']['stages'])}): {scored}"]
