"""`outdo audit`: find where a reward or a judge pays for something other than what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outdo.cli import common
from outdo.errors import UserError, check

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Audit a reward or a judge: before, during and after training."
)

Reward = Annotated[
    str,
    typer.Argument(metavar="REWARD", help="my_rewards.py:fn, package.module:name, a judge's name, or '{ name = \"sum\", ... }'."),
]
CardFile = Annotated[Path, typer.Argument(metavar="CARD", help="A card's folder, or its card.json.")]
FindingId = Annotated[str, typer.Argument(metavar="FINDING", help="The finding's id, such as A04.")]
Data = Annotated[str, typer.Option("--data", help="Rows with a prompt, a reference and, best, a completion that is right.")]
Range = Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="Range of the score (default: as seen).")]
Accept = Annotated[
    float | None, typer.Option(help="From here on a score counts as right (default: halfway between wrong and right answers).")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="OURS=THEIRS", help="Name a column: prompt, completion or reference. Repeatable."),
]
Declared = Annotated[
    list[str] | None,
    typer.Option("--declare", help="What the reward does on purpose: stochastic, group_relative, length. Repeatable."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Folder for card.json, card.html and card.sarif (default: audit/NAME)."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of samples and searches.")]


@app.command()
def reward(
    what: Reward,
    data: Data,
    range_: Range = None,
    accept: Accept = None,
    columns: Columns = None,
    declare: Declared = None,
    checks: Annotated[
        list[str] | None,
        typer.Option("--check", help="Only these: an id, a letter (A, C, R), or my_check.py:MyCheck. Repeatable."),
    ] = None,
    budget: Annotated[int, typer.Option(min=100, help="Calls that the search may take.")] = 2000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one call.")] = 5.0,
    seed: Seed = 0,
    out: Out = None,
    format_: Annotated[str, typer.Option("--format", help="text, json or sarif.")] = "text",
    baseline: Annotated[Path | None, typer.Option(metavar="CARD", help="An earlier card: only new findings fail.")] = None,
    fail_on: Annotated[str, typer.Option(help="fail, warn or never.")] = "fail",
    network: Annotated[bool, typer.Option("--network", help="Let the reward use the network.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Show the checks that pass as well.")] = False,
) -> None:
    """Audit a reward before anything is trained on it. Exit codes: 0 pass, 1 fail, 2 error, 3 inconclusive.

    [bold]Examples[/]

    outdo audit reward my_rewards.py:reward --data gold.jsonl

    outdo audit reward math --data gsm8k.jsonl --columns completion=solution --format sarif
    """
    from outdo.audit import card as cards
    from outdo.audit.audit import audit_reward

    check(format_ in ("text", "json", "sarif"), f"--format {format_!r}: there is text, json and sarif")
    check(fail_on in ("fail", "warn", "never"), f"--fail-on {fail_on!r}: there is fail, warn and never")
    known = [cards.fingerprint(f) for f in cards.read(baseline).findings] if baseline else []
    made = audit_reward(
        what,
        data,
        columns=named(columns),
        score_range=_range(range_),
        accept=accept,
        checks=checks or (),
        declared=declare or (),
        seed=seed,
        budget=budget,
        timeout_s=timeout,
        offline=not network,
    )
    made = cards.replace_data(made, data)
    folder = out or Path("audit") / "".join(c if c.isalnum() else "_" for c in made.reward)
    made.write(folder)
    show(made, format_, all_)
    if format_ == "text":
        print(f"  written to {folder}: card.html, card.json, card.sarif")
    raise typer.Exit(made.exit_code(fail_on, known))


@app.command()
def replay(card: CardFile, finding: FindingId) -> None:
    """Score a finding's counterexample again. Exit code 1 if it is still accepted."""
    from outdo.audit import again
    from outdo.audit import card as cards

    found, result, taken = again.replay(cards.read(card), finding)
    common.tell(
        f"{found.id} {found.title}: scored {found.example and found.example['score']} then, {result.value} now"
        f"{f' ({result.error})' if result.error else ''}; {'still accepted' if taken else 'not accepted'}"
    )
    raise typer.Exit(int(taken))


@app.command()
def reach(
    card: CardFile,
    finding: FindingId,
    data: Annotated[str | None, typer.Option(help="Rows to look at (default: the card's).")] = None,
) -> None:
    """The share of a data set's rows on which a finding's hole works."""
    from outdo.audit import again
    from outdo.audit import card as cards

    r = again.reach(cards.read(card), finding, data)
    common.tell(
        f"{finding.upper()} works on {r.hits} of {r.rows} rows ({r.hits / r.rows:.0%} [{r.interval[0]:.0%}, {r.interval[1]:.0%}])"
    )


@app.command()
def repro(
    card: CardFile,
    finding: FindingId,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The script (default: repro_FINDING.py).")] = None,
) -> None:
    """Write a script that shows a finding without outdo, and run it twice."""
    from outdo.audit import again
    from outdo.audit import card as cards

    file = out or Path(f"repro_{finding.upper()}.py")
    first, second = again.repro(cards.read(card), finding, file)
    common.tell(f"{file} written; two runs print {first:g} and {second:g}")


@app.command("verify-fix")
def verify_fix(
    card: CardFile,
    finding: FindingId,
    what: Annotated[str, typer.Argument(metavar="REWARD", help="The changed reward.")],
    data: Annotated[str | None, typer.Option(help="Rows (default: the card's).")] = None,
    seed: Seed = 1,
) -> None:
    """Whether a changed reward closes a finding: old counterexamples, all checks, a search with a fresh seed."""
    from outdo.audit import again
    from outdo.audit import card as cards

    fix = again.verify_fix(cards.read(card), finding, what, data, seed)
    for line in fix.lines:
        common.tell(f"  {line}")
    common.tell(f"{finding.upper()} is {'closed' if fix.closed else 'not closed'}")
    raise typer.Exit(int(not fix.closed))


@app.command()
def selftest(
    table: Annotated[bool, typer.Option("--table", help="Print the whole matrix as Markdown.")] = False, seed: Seed = 0
) -> None:
    """Every check on rewards that it must catch, and on honest ones that it must pass. A minute."""
    from outdo.audit import selftest as testing

    rows = testing.matrix(seed=seed)
    fails = [(n, f) for n, found in testing.honest(seed).items() for f in found]
    if table:
        print(testing.table(rows))
    wrong = [r for r in rows if not r.right]
    for r in wrong:
        common.tell(f"{r.check.id}: " + "; ".join(f"{n} {f.verdict}: {f.said}" for n, f in [*r.bad, *r.good]))
    for name, f in fails:
        common.tell(f"honest {name}: {f.id} {f.verdict}: {f.said}")
    caught = sum(len(r.bad) for r in rows)
    common.tell(
        f"{len(rows) - len(wrong)} of {len(rows)} checks catch their bad rewards ({caught}) and pass their honest ones; "
        f"{len(fails)} failures on the honest rewards"
    )
    raise typer.Exit(int(bool(wrong or fails)))


def show(card: Any, format_: str, all_: bool) -> None:
    import json

    if format_ == "text":
        print(card.text(all_))
    else:
        print(json.dumps(card.record() if format_ == "json" else card.sarif(), indent=1, default=str))


def named(columns: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in columns or []]
    for ours, sign, theirs in pairs:
        check(
            bool(sign and theirs) and ours in ("prompt", "completion", "reference"),
            f"--columns {ours}{sign}{theirs}: write prompt=NAME, completion=NAME or reference=NAME",
        )
    return {ours: theirs for ours, _, theirs in pairs}


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(x) for x in text.split(","))
    except ValueError:
        raise UserError(f"--range {text!r}: write LOW,HIGH, such as 0,1") from None
    check(low < high, f"--range {text!r}: {low:g} is not below {high:g}")
    return low, high
