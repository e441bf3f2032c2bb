"""`outdo advise`: imitate or reinforce? Probes, rules, predictions, and a recipe that is ready to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common
from outdo.errors import UserError, check

_SPENT = 0.05  # of the budget that probes may take
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def advise(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A recipe with a task, a judge and a start; its "
        "stages say what "
                                                 "it would train.")] = None,
    budget: Annotated[str, typer.Option(help="What an arm may cost: 30m, 2h, 1e13flops.")] = "10m",
    start: Annotated[str | None, typer.Option(help="Begin there: a checkpoint or RUN:stage (default: what the recipe begins "
                                                   "with).")] = None,
    set_: common.Overrides = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the recipe that follows the advice.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Show how earlier advice did, and stop.")] = False,
) -> None:
    """Say what to do with a task: nothing, best of n, SFT, rejection sampling, RL, SFT then RL, or mend the judge first.

    [bold]Examples[/]

    outdo advise my_recipe.toml --budget 30m

    outdo advise chess_endgame --budget 1e13flops --out advised.toml
    """
    from outdo.advice import record as records

    if record:
        for line in records.summary():
            print(line)
        return
    if recipe is None:
        raise UserError("no recipe; for example: outdo advise my_recipe.toml --budget 30m")
    from outdo import recipe as recipes
    from outdo.advice.predict import advise as decide
    from outdo.runs import advise as probing

    config = recipes.load(recipes.find(recipe), common.overridden(set_))
    flops = _flops(budget, probing.rate(config))
    m, spent, question = probing.probe(config, start, lambda text: print(f"probing: {text}", flush=True))
    advice = decide(m, flops)
    print(f"advice: {advice.option.replace('_', ' ')} (rule: {advice.rule})")
    for reason in advice.reasons:
        common.tell(f"  because {reason}" if reason is advice.reasons[0] else f"  {reason}")
    if advice.tie:
        print(f"  a tie with {', '.join(t.replace('_', ' ') for t in advice.tie)}: within 2 points by the prediction; take "
              "the cheaper")
    print(f"  what would change it: {advice.change}")
    print(f"{'option':<16}{'predicted score':<24}FLOPs of an arm")
    for o in advice.options[:5]:
        print(f"{o.name.replace('_', ' '):<16}{f'{o.predicted:.0%} [{o.low:.0%}, {o.high:.0%}]':<24}{o.flops:.2g}")
    print(f"probes took {spent:.2g} FLOPs ({spent / flops:.1%} of the budget); predictions are rough and are scored: outdo "
          "advise --record")
    if spent > _SPENT * flops:
        print(f"  more than {_SPENT:.0%} of the budget: a budget this small is better spent on trying")
    records.keep(question, advice, m, flops)
    if out is not None:
        from outdo.runs.advised import written

        out.write_text(written(config, advice, flops, start), encoding="utf-8")
        print(f"written to {out}: outdo run {out}")


def _flops(budget: str, rate: float) -> float:
    """30m, 2h, 1e13flops -> FLOPs. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9.eE+]+)\s*(s|m|h|flops?)\s*", budget)
    check(match is not None, f"--budget {budget!r}: write a time (30m, 2h) or arithmetic (1e13flops)")
    assert match is not None
    try:
        number = float(match[1])
    except ValueError:
        raise UserError(f"--budget {budget!r}: {match[1]!r} is no number") from None
    check(number > 0, f"--budget {budget!r}: give more than nothing")
    return number if match[2].startswith("flop") else number * _SECONDS[match[2]] * rate
