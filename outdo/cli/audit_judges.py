"""`outdo audit judge`, `ceiling`, `power`, `rescore`, `report` and `env`: judges, finished runs and whole environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from outdo.cli import common
from outdo.cli.audit import Accept, Columns, Out, Seed, named, show
from outdo.cli.audit import app as app
from outdo.errors import UserError, check


@app.command()
def judge(
    what: Annotated[str, typer.Argument(metavar="JUDGE", help="A judge's name, '{ name = \"llm\", ... }', or my_judge.py:fn.")],
    labels: Annotated[
        str, typer.Option(help="Rows with a prompt, a completion and whether it is right (right, correct or label).")
    ],
    pairs: Annotated[str | None, typer.Option(help="Rows with prompt, chosen and rejected, for judges of pairs.")] = None,
    second: Annotated[str | None, typer.Option(help="A held-out judge.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Times that the same answers are asked about.")] = 3,
    max_calls: Annotated[int, typer.Option(help="Refuse to begin if it would ask more.")] = 5000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many calls it would take, and what they could show.")
    ] = False,
    checks: Annotated[list[str] | None, typer.Option("--check", help="Only these. Repeatable.")] = None,
    columns: Columns = None,
    accept: Accept = None,
    seed: Seed = 0,
    out: Out = None,
    format_: Annotated[str, typer.Option("--format", help="text, json or sarif.")] = "text",
    all_: Annotated[bool, typer.Option("--all", help="Show the checks that pass as well.")] = False,
) -> None:
    """Audit a judge on labelled answers: attacks with matched controls, errors, calibration, the ceiling that it sets.

    [bold]Example[/]

    outdo audit judge '{ name = "llm", model = "judge-8b", base_url = "http://localhost:8000/v1" }' --labels labels.jsonl
    """
    from outdo.audit import cases
    from outdo.audit import judge as judging
    from outdo.evaluation.agreement import pairs_needed

    given = cases.load(labels, named(columns))
    if dry_run:
        wrong = sum(c.right is False for c in given)
        common.tell(
            f"{len(given)} labels, {wrong} wrong answers: about {judging.estimate(given, repeats):,} calls; matched checks take "
            f"{pairs_needed(0.15, 9)} wrong answers to see that 15 % flip, {pairs_needed(0.05, 9)} for 5 %"
        )
        return
    card = judging.audit_judge(
        what,
        labels,
        pairs=pairs,
        second=second,
        columns=named(columns),
        accept=accept,
        repeats=repeats,
        checks=checks or (),
        seed=seed,
        max_calls=max_calls,
    )
    folder = out or Path("audit") / "".join(c if c.isalnum() else "_" for c in card.reward)
    card.write(folder)
    show(card, format_, all_)
    if format_ == "text":
        print(f"  written to {folder}: card.html, card.json, card.sarif")
    raise typer.Exit(card.exit_code())


@app.command()
def ceiling(
    samples: Annotated[str, typer.Option(help="Rows with prompt, reward and gold: several samples of each prompt.")],
    sizes: Annotated[str, typer.Option("--n", help="Sizes to try.")] = "1,2,4,8,16,32",
) -> None:
    """What choosing the best of n by the reward gains in gold, of what choosing by gold would gain: before any training."""
    from outdo.audit.after import ceiling_of

    try:
        wanted = [int(x) for x in sizes.split(",")]
    except ValueError:
        raise UserError(f"--n {sizes!r}: write sizes such as 1,2,4") from None
    for line in ceiling_of(samples, wanted):
        common.tell(line)


@app.command()
def power(
    rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that an attack flips, or a rate to be measured.")] = 0.05,
    margin: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Half-width of an interval, or growth of the gap to be seen.")
    ] = 0.02,
) -> None:
    """Labels and gold probes needed, before money is spent."""
    from outdo.evaluation.agreement import labels_needed, pairs_needed

    check(rate > 0, "--rate 0: nothing to see; give a share above 0")
    common.tell(f"matched pairs to see that {rate:.0%} of wrong answers flip (nine families, power 80 %): "
                f"{pairs_needed(rate, 9):,}")
    common.tell(f"labels for a rate of {rate:.0%} within {margin:.1%}: {labels_needed(rate, margin):,}")
    common.tell(f"attacks without one accepted that bound the rate below {margin:.1%}: {int(-(-3.0 // margin)):,}")


@app.command()
def rescore(
    run: Annotated[str, typer.Argument(metavar="RUN[:stage]", help="A run whose rollouts are kept.")],
    judge_: Annotated[str, typer.Option("--judge", help="The other judge, as outdo audit reward takes rewards.")],
    out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all pairs of scores to this file.")] = None,
) -> None:
    """Score a run's stored rollouts by another judge, and hold the two against each other."""
    from outdo.audit.after import rescored

    found = rescored(run, judge_)
    for line in found.lines():
        common.tell(line)
    if out is not None:
        out.write_text(json.dumps(found.pairs, indent=1), encoding="utf-8")


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN[:stage]", help="A run with a live audit, finished or not.")],
    verdicts: Annotated[Path | None, typer.Option(help="Verdicts that the review packet gave: they count as gold.")] = None,
) -> None:
    """What became of reward and gold: reward up x, gold up y, the share of the gain that is judge error, the best checkpoint.

    Writes audit_review.html into the stage's folder: samples to be judged by eye, shuffled, without their scores.
    """
    from outdo.audit.after import after, review

    for line in after(run, verdicts):
        common.tell(line)
    common.tell(f"review packet: {review(run)}")


@app.command()
def env(
    what: Annotated[str, typer.Argument(metavar="ENV", help="my_env.py:Environment, or a verifiers environment installed here.")],
    seed: Seed = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one call.")] = 20.0,
) -> None:
    """Audit an environment with its own tools and turns: state after reset, acting after the end, tools that reach the grade."""
    from outdo.audit.environment import audit_env

    card = audit_env(what, seed=seed, timeout_s=timeout)
    show(card, "text", True)
    raise typer.Exit(card.exit_code())
