"""`outdo match`: two players on the same starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outdo.cli import common
from outdo.errors import check

_PLAYER = "A checkpoint, RUN[:stage], or a reference player of the task such as teacher."


def match(
    a: Annotated[str, typer.Argument(metavar="A", help=_PLAYER)],
    b: Annotated[str, typer.Argument(metavar="B", help="Who A is compared with, in the same forms.")],
    recipe: common.RecipeFile = None,
    task: common.TaskName = None,
    set_: common.Overrides = None,
    opponent: Annotated[str | None, typer.Option(help="Whom both play against (default: the task's first opponent).")] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Most starts to play (default: evaluation.prompts).")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pairs between two looks at the result.")] = 100,
    decode: Annotated[str, typer.Option(help="sampled or greedy.")] = "sampled",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starts and of sampling.")] = 0,
    seed_b: Annotated[int | None, typer.Option(min=0, help="Seed of B's sampling (default: A's, so that a player draws against "
                                               "itself).")] = None,
    elo0: Annotated[float, typer.Option(help="Sequential test: the Elo difference of H0.")] = 0.0,
    elo1: Annotated[float | None, typer.Option(help="The Elo difference of H1. Turns the test on: the match stops as soon as "
                                               "one of the two is accepted.")] = None,
    alpha: Annotated[float, typer.Option(help="Chance of accepting H1 although H0 is true.")] = 0.05,
    beta: Annotated[float, typer.Option(help="Chance of accepting H0 although H1 is true.")] = 0.05,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result to this file.")] = None,
) -> None:
    """Compare two players on the same starts: pentanomial counts, Elo with error bars, a test that stops early.

    [bold]Examples[/]

    outdo match runs/chess_endgame-1:rl runs/chess_endgame-1:sft --pairs 2000

    outdo match runs/chess_endgame-1:rl teacher --decode greedy --elo0 0 --elo1 20
    """
    from outdo import recipe as recipes
    from outdo.evaluation.match import Sprt
    from outdo.runs import match as matches
    from outdo.runs import reopen
    from outdo.system import files, progress

    check(decode in reopen.DECODES, f"--decode {decode!r} is unknown; use sampled or greedy")
    check(json is None or json.parent.is_dir(), f"--json {str(json)!r}: its folder does not exist; make it first")
    for name, value in (("--alpha", alpha), ("--beta", beta)):
        check(0.0 < value < 0.5, f"{name} {value:g} is no error rate of a test; give one above 0 and below 0.5")
    check(elo1 is None or elo0 < elo1, f"--elo1 {elo1} must lie above --elo0 {elo0:g}: H1 is that A is stronger; raise it, or "
          "swap A and B")
    check(elo1 is not None or elo0 == 0.0, f"--elo0 {elo0:g} alone tests nothing; add --elo1")
    config, one, other = matches.sides(a, b, recipes.find(recipe) if recipe else None, task, common.overridden(set_))
    test = None if elo1 is None else Sprt(elo0, elo1, alpha, beta)
    plan = matches.Plan(pairs, batch, decode, opponent, seed, (seed, seed if seed_b is None else seed_b), test)
    console = common.console()
    with progress.counting(console) as count:
        for record in matches.play(config, one, other, plan, count):
            if test is not None:
                console.print(_looked(record), highlight=False, style="dim")
    for line in lines(record):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if json is not None:
        files.write_json(json, record)


def lines(r: dict[str, Any]) -> list[str]:
    """The result for people."""
    from outdo.evaluation.match import NAMES

    against = "" if r["opponent"] == "none" else f" against {r['opponent']}"
    a_seed, b_seed = r["sampling_seeds"]
    seeds = f"seed {r['seed']}" + ("" if a_seed == b_seed else f", sampling seeds {a_seed} and {b_seed}")
    dropped = f", {r['unscored']} unscored and left out" if r["unscored"] else ""
    out = [f"{r['task']}, {r['split']} starts{against}, {r['decode']}: A = {r['a']}, B = {r['b']}",
           f"n = {r['pairs']:,} pairs{dropped}, {seeds}"]
    if not r["pairs"]:
        return [*out, "no pair has a score, so nothing can be compared"]
    games, unit = r["metric"] == "points", {"points": "points", "gold": "gold score"}[r["metric"]]
    means = f"A {r['a_mean']:.3f}, B {r['b_mean']:.3f}" + (" a game" if games else "")
    counts = zip(NAMES if games else ("B better", "", "equal", "", "A better"), r["counts"], strict=True)
    out += ["pairs       " + ", ".join(f"{name} {n:,}" for name, n in counts if name),
            f"{unit:<12}{means}, difference {_interval(r['difference'], r['difference_ci95'], '+.3f')}",
            f"score of A  {_interval(r['score'], r['score_ci95'], '.3f')}",
            f"Elo         {_interval(r['elo'], r['elo_ci95'], '+.1f')}: {r['verdict']}"]
    return out + ([_decided(r)] if r["sprt"] else [])


def _interval(value: float | None, ci95: list[float | None], form: str) -> str:
    """None is an infinite Elo: there the end that belongs to it is open."""
    low, high = ci95
    said = "beyond measure" if value is None else f"{value:{form}}"
    return f"{said} [{'-inf' if low is None else f'{low:{form}}'}, {'inf' if high is None else f'{high:{form}}'}]"


def _looked(r: dict[str, Any]) -> str:
    s = r["sprt"]
    counts = "-".join(map(str, r["counts"]))
    return (f"batch {r['batches']}: {r['pairs']:,} pairs {counts}, Elo {_interval(r['elo'], r['elo_ci95'], '+.0f')}, "
            f"LLR {s['llr']:+.2f} ({s['bounds'][0]:.2f}, {s['bounds'][1]:.2f})")


def _decided(r: dict[str, Any]) -> str:
    s = r["sprt"]
    about = f"H0: Elo {s['elo0']:g}, H1: Elo {s['elo1']:g}, alpha {s['alpha']:g}, beta {s['beta']:g}, LLR {s['llr']:+.2f}"
    if not s["decision"]:
        return f"SPRT        undecided after {r['pairs']:,} pairs; play more with --pairs ({about})"
    played = r["pairs"] + r["unscored"]
    early = f"stopped early after {played:,} of {r['limit']:,} pairs" if played < r["limit"] else "after the last batch"
    return f"SPRT        {s['decision']} accepted, {early} ({about}); Elo is biased where a test stops"
