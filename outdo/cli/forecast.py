"""`outdo forecast`: where a score will be at a larger compute. `outdo forecasts`: how good such forecasts were."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outdo.cli import common
from outdo.errors import UserError, check

if TYPE_CHECKING:
    from outdo.forecast.forecast import Forecast
    from outdo.forecast.skill import Record

Curve = Annotated[str, typer.Option(metavar="CURVE", help="Of a run: score (held-out evaluations), reward (of the steps) or gold "
                                    "(of the live audit).")]


def forecast(
    run: Annotated[str | None, typer.Argument(metavar="RUN[:stage]", help="A run, finished or not (default: the stage that was "
                                              "last written to).")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A curve: columns compute, score and optionally se.")] = None,
    at: Annotated[float | None, typer.Option(help="Compute to forecast (default: the end of the stage; if it has ended, twice "
                                             "its compute).")] = None,
    curve: Curve = "score",
    range_: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="Bounds of a CSV file's score: 0,1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the forecast as JSON.")] = False,
) -> None:
    """Forecast a score at a larger compute, with bands, by the model that a hold-out chooses.

    [bold]Examples[/]

    outdo forecast runs/endgames-1:rl

    outdo forecast --csv curve.csv --at 5e18 --range 0,1
    """
    check((run is None) != (csv is None), "give either a run or --csv FILE")
    check(range_ is None or csv is not None, "--range is for --csv; a run's evaluations say whether they are shares")
    found = _of_csv(csv, at, range_) if csv is not None else _of_run(str(run), at, curve)
    if as_json:
        print(json.dumps({**found.record(), "models": found.says()}, indent=1))
    else:
        _show(found)


def _of_csv(file: Path, at: float | None, bounds: str | None) -> Forecast:
    from outdo.forecast.curve import read_csv
    from outdo.forecast.forecast import forecast as made

    low, high = _bounds(bounds)
    curve = read_csv(file, low, high)
    return made(curve, _beyond(at, float(curve.compute[-1]), 2.0 * float(curve.compute[-1])))


def _of_run(run: str, at: float | None, curve: str) -> Forecast:
    from outdo.forecast import store

    check(curve in store.CURVES, f"--curve {curve!r}: give one of {', '.join(store.CURVES)}")
    folder = store.stage_folder(run)
    seen = store.history(folder)
    found = store.of_curve(seen, curve, _beyond(at, seen.end, store.planned_end(folder, seen))) if seen.end else None
    if found is None:
        raise UserError(f"{folder} has fewer than six points of {curve}; a forecast needs six evaluations, or six steps with "
                        "rewards and an evaluation")
    return found


def _beyond(at: float | None, now: float, usual: float) -> float:
    """The compute to forecast. Raises UserError unless it lies beyond what was seen."""
    check(at is None or (math.isfinite(at) and at > now), f"--at {at}: the curve already goes to {now:.6g}; give more")
    return usual if at is None else at


def _bounds(text: str | None) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in (text or "-inf,inf").split(","))
    except ValueError:
        raise UserError(f"--range {text!r}: write two numbers, such as 0,1") from None
    check(low < high, f"--range {text!r}: the first must be smaller")
    return low, high


def _show(found: Forecast) -> None:
    from rich.table import Table

    console, at = common.console(), found.at
    table = Table("model", f"at {at:.3g}", "hold-out RMSE", "skill", box=None)
    for name, value in found.says().items():
        mark = "  <- chosen" if name == found.held.name else ""
        table.add_row(name, f"{value:.3f}", f"{found.held.rmse(name):.3f}", f"{found.held.skill(name):+.0%}{mark}")
    console.print(table)
    (lo80, hi80), (lo, hi) = found.band.ci80, found.band.ci95
    console.print(f"\nforecast {found.value:.3f}, 80 % band [{lo80:.3f}, {hi80:.3f}], 95 % band [{lo:.3f}, {hi:.3f}]; now "
                  f"{found.last:.3f} at {found.of.compute[-1]:.3g} ({len(found.of)} points)", markup=False, highlight=False)
    console.print(found.verdict(), highlight=False)
    if found.ceiling is not None:
        a, low, high = found.ceiling
        console.print(f"ceiling of the sigmoid {a:.3f}, 95 % profile interval [{low:.3f}, {high:.3f}]", markup=False,
                      highlight=False)
    else:
        console.print("ceiling: not identifiable from this curve", highlight=False)


def forecasts(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN...]", help="Run folders (default: all in runs/).")] = None,
    half: Annotated[bool, typer.Option("--half", help="In place of stored forecasts, forecast finished stages from their first "
                                       "half.")] = False,
    curve: Curve = "score",
) -> None:
    """Show how good forecasts were: skill over the last value and coverage of the bands, with 95 % intervals over stages.

    [bold]Examples[/]

    outdo forecasts

    outdo forecasts --half runs/endgames-1 runs/endgames-2
    """
    from outdo.forecast import store
    from outdo.forecast.events import count

    check(curve in store.CURVES, f"--curve {curve!r}: give one of {', '.join(store.CURVES)}")
    chosen = runs or sorted(p for p in Path("runs").glob("*") if (p / "stages").is_dir())
    folders = [folder for run in chosen for folder in store.stages(run)]
    made = [store.halved(folder, curve) if half else store.stored(folder) for folder in folders]
    found = {folder: records for folder, records in zip(folders, made, strict=True) if records}
    more = "" if half else "; a run stores them from its third evaluation on, and --half makes some afterwards"
    check(bool(found), f"no forecast whose truth is known in {len(chosen)} runs{more}")
    _show_skill(found)
    if half:
        ended = count(store.history(folder).curve(curve) for folder in found)
        print(f"late collapses {ended.collapses}, late jumps {ended.jumps}, of {ended.curves} curves")


def _show_skill(found: Mapping[Path, Sequence[Record]]) -> None:
    from rich.table import Table

    from outdo.forecast.skill import skill

    console = common.console()
    if len(found) <= 20:
        table = Table("stage", "at FLOPs", "model", "forecast", "95 % band", "last value", "truth", box=None)
        for folder, records in found.items():
            for r in records:
                table.add_row(f"{folder.parent.parent.name}:{folder.name}", f"{r['flops']:.2g}", r["model"], f"{r['value']:.3f}",
                              f"{r['ci95'][0]:.3f} to {r['ci95'][1]:.3f}", f"{r['last']:.3f}", f"{r['truth']:.3f}")
        console.print(table)
    s = skill(list(found.values()))
    chosen = sum(r["model"] != "last" for rs in found.values() for r in rs)
    console.print(f"{s.forecasts} forecasts of {s.stages} stages; a model was preferred to the last value in {chosen}",
                  highlight=False)
    console.print(f"RMSE {s.rmse:.3f}, of the last value {s.rmse_last:.3f}; skill {s.skill[0]:.2f} [{s.skill[1]:.2f}, "
                  f"{s.skill[2]:.2f}]", markup=False, highlight=False)
    for band, (value, low, high) in s.coverage.items():
        console.print(f"{band} % band covered {value:.1%} [{low:.1%}, {high:.1%}]", markup=False, highlight=False)
