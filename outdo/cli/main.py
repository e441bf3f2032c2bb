"""The command line. Thin: it reads arguments, calls the functions that do the work, and says errors in one line.

Whatever needs torch is imported inside the commands, so that help and mistakes in a recipe answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outdo import __version__
from outdo.errors import UserError, check, out_of_memory
from outdo.runs import lock

if TYPE_CHECKING:
    from rich.console import Console

    from outdo.recipe import Recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]})
_PIPE_WIDTH = 140  # columns of tables in files and logs
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value; repeatable.")]
Target = Annotated[str, typer.Argument(metavar="CHECKPOINT | RUN[:stage]", help="A checkpoint (folder, .gguf file, "
                                       "fetched name, hub id), or a stage of a run: the last finished one if none is named.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Take task and gold judge from this recipe.")]
TaskName = Annotated[str | None, typer.Option("--task", help="Task by name, for a checkpoint outside of a run folder.")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Say the version and stop.")] = False) -> None:
    """Turn any judge into a doer: pre-training, imitation and reinforcement in one recipe, measured on your own task.

    [bold]Start here[/]

    outdo run recipes/chess_endgame.toml --dry-run   [dim]what it would do and cost[/]

    outdo run recipes/chess_endgame.toml   [dim]do it; Ctrl-C at any time, then --resume[/]

    outdo play runs/chess_endgame-1:rl   [dim]defend against what it learned[/]
    """
    if version:
        print(f"outdo {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE.toml", help="What to do; not with --resume.")] = None,
    set_: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random, if not the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder; runs/<name>-<n> unless given.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe, plan and cost; do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Train also where a pre-flight finds nothing to learn from.")] = False,
) -> None:
    """Do every stage of a recipe, measure each, and write the run folder and its report.

    [bold]Examples[/]

    outdo run recipes/chess_endgame.toml --dry-run

    outdo run recipes/chess_endgame.toml --set stage.rl.steps=50 --set task.material=KQK --seed 1 --out runs/try

    outdo run --resume runs/try
    """
    config = _recipe_of_run(recipe, set_, seed, out, resume)
    console = _console()
    from outdo import recipe as recipes
    from outdo.runs import plan
    from outdo.runs import run as runs
    from outdo.system import files

    config = recipes.forced(config) if force else config

    with _resuming(resume) if resume and not dry_run else nullcontext():
        done = [n for n in config.order() if resume and (resume / "stages" / n / "done.json").exists()]
        planned = plan.make(config, done)
        if dry_run:
            console.print(runs.resolved(config).to_toml(), markup=False, highlight=False, soft_wrap=True)
        console.print(plan.render(planned))
        if dry_run:
            return
        if resume:
            if force:
                files.write_text(resume / "recipe.toml", config.to_toml())
            _work(config, resume, planned, console)
    if not resume:
        with (lock.new_folder(lambda: runs.new_folder(config, out)) as folder, lock.endings(folder),
              lock.only_one(folder)):
            _work(config, folder, planned, console)


@contextmanager
def _resuming(folder: Path) -> Iterator[None]:
    with lock.endings(folder), lock.only_one(folder):
        yield


def _recipe_of_run(recipe: Path | None, set_: list[str] | None, seed: int | None, out: Path | None,
                   resume: Path | None) -> Recipe:
    """The recipe of a new or of an interrupted run; needs no torch."""
    from outdo import recipe as recipes

    if resume is not None:
        given = {"RECIPE": recipe, "--set": set_, "--seed": seed, "--out": out}
        extra = " and ".join(name for name, value in given.items() if value not in (None, []))
        check(not extra, f"--resume goes on with the run's own recipe; leave out {extra}, or start a new run")
        return recipes.load(_run_folder(resume) / "recipe.toml")
    if recipe is None:
        raise UserError("no recipe; for example: outdo run recipes/chess_endgame.toml, or outdo run --resume DIR")
    overrides = dict(recipes.parse_override(text) for text in set_ or [])
    return recipes.load(recipe, overrides if seed is None else {**overrides, "seed": seed})


def _run_folder(folder: Path) -> Path:
    check((folder / "recipe.toml").is_file(), f"{str(folder)!r} is no run folder: it has no recipe.toml")
    return folder


def _work(config: Recipe, folder: Path, planned: Any, console: Console) -> None:
    from outdo.report import terminal
    from outdo.runs import run as runs
    from outdo.system import files, progress

    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)
    with progress.display(console, planned) as show:
        summary = files.read_json(runs.run(config, folder, show))
    console.print(terminal.results(summary))
    console.print(terminal.utilisation(summary, files.read_json(folder / "environment.json")),
                  highlight=False, style="dim")
    _report_or_warn(folder, console)


def _report_or_warn(folder: Path, console: Console) -> None:
    """A finished run stays a finished run, whatever happens to its report."""
    try:
        _build_report(folder, console)
    except Exception as e:
        if os.environ.get("OUTDO_DEBUG"):
            raise
        print(f"outdo: warning: no report ({type(e).__name__}: {e}); the run is complete, try: outdo report {folder}",
              file=sys.stderr)


def _build_report(folder: Path, console: Console) -> None:
    from outdo import report

    console.print(f"report: {report.build(folder)}", highlight=False, soft_wrap=True)


models = typer.Typer(no_args_is_help=True, help="Real models to start from.")
app.add_typer(models, name="models")


@models.command("fetch")
def fetch_model(name: Annotated[str, typer.Argument(help="Which; smollm2 is a chat model of 135M parameters.")]) -> None:
    """Download a model, convert it once and print its folder.

    [bold]Example[/]

    outdo models fetch smollm2
    """
    from outdo.models import fetch

    print(fetch.fetch(name, lambda message: print(message, file=sys.stderr)))


@app.command()
def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file (.jsonl, .json, .csv, .parquet), a folder or a hub id.")],
    model: Annotated[str, typer.Option(help="Whose tokenizer: a model folder, a fetched model or a hub id.")],
    rows: Annotated[int, typer.Option(min=0, help="How many examples are printed.")] = 3,
    split: Annotated[str, typer.Option(help="Of data that has several.")] = "train",
    stream: Annotated[bool, typer.Option("--stream", help="Read rows as they come: data larger than memory.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Cut rows there, if not at the model's context.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="As train_on = 'everything': prompts train, too.")] = False,
) -> None:
    """Show rows of data as a model is shown them: what trains, how long they are, what is cut.

    [bold]Examples[/]

    outdo inspect chats.jsonl --model smollm2

    outdo inspect org/name --model org/model --split test --rows 10 --max-tokens 2048
    """
    from outdo.cli import rows as inspecting
    from outdo.text import render
    from outdo.text import rows as text_rows

    loaded = text_rows.load(data, split, stream)
    tokenizer, context = inspecting.open_tokenizer(model)
    renderer = render.Renderer(tokenizer, min(max_tokens or context, context), everything)
    console = _console()
    inspecting.show_examples(console, data, loaded, renderer, rows)
    from outdo.system import progress  # seconds of imports, while there is something to read

    with progress.counting(console) as count:
        rendered = inspecting.measure(loaded, renderer, count)
    console.print(inspecting.lengths(rendered))
    console.print(inspecting.shares(rendered, renderer.context), markup=False, highlight=False)


@models.command("merge")
def merge_adapter(adapter: Annotated[Path, typer.Argument(help="An adapter's folder, in peft's format.")],
                  out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")]) -> None:
    """Add a LoRA adapter to its base model and write a plain checkpoint.

    [bold]Example[/]

    outdo models merge runs/arithmetic-1/stages/sft/checkpoints/60/adapter my-model
    """
    from outdo.models import adapt

    adapt.merge(adapter, out)
    print(out)


@app.command("eval")
def evaluate(
    target: Target,
    recipe: RecipeFile = None,
    task: TaskName = None,
    set_: Overrides = None,
    opponent: Annotated[list[str] | None, typer.Option(help="Whom to play; repeatable. All unless given.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="How many, if not the recipe's number.")] = None,
    decode: Annotated[str, typer.Option(help="sampled, greedy or both.")] = "both",
    seed: Annotated[int, typer.Option(min=0, help="Other prompts and other dice; 0 are the run's own.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="All numbers go here.")] = None,
) -> None:
    """Measure a checkpoint on a task, with 95 % intervals.

    [bold]Examples[/]

    outdo eval runs/chess_endgame-1:rl --decode greedy --prompts 2000

    outdo eval my_checkpoint --task chess_endgame --set task.material=KQK --opponent perfect --json numbers.json
    """
    from outdo import recipe as recipes
    from outdo.report import terminal
    from outdo.runs import reopen
    from outdo.system import files, progress

    decodes = list(reopen.DECODES) if decode == "both" else [decode]
    check(decodes[0] in reopen.DECODES, f"--decode {decode!r} is unknown; use sampled, greedy or both")
    check(json is None or json.parent.is_dir(), f"--json {str(json)!r}: its folder does not exist; make it first")
    overrides = dict(recipes.parse_override(text) for text in set_ or [])
    opened = reopen.open_checkpoint(target, recipe, task, overrides)
    console = _console()
    with progress.counting(console) as count:
        records = list(reopen.measurements(opened, opponent or (), decodes, prompts, seed, count))
    console.print(terminal.measured(records))
    if json is not None:
        files.write_json(json, records)


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Write the run's report.html anew.

    [bold]Example[/]  outdo report runs/chess_endgame-1
    """
    _build_report(_run_folder(folder), _console())


@app.command()
def play(
    target: Target,
    fen: Annotated[str | None, typer.Option(help="Start position, White to move; a held-out one unless given.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 samples as in training.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Which start position, and the model's dice.")] = 0,
    recipe: RecipeFile = None,
    task: TaskName = None,
    set_: Overrides = None,
) -> None:
    """Defend as Black against a checkpoint, here in the terminal. An illegal move of the model's is your win.

    [bold]Examples[/]

    outdo play runs/chess_endgame-1:rl --seed 7

    outdo play runs/chess_endgame-1:sft --fen '8/8/8/4k3/8/8/8/K6R w - - 0 1' --temperature 1
    """
    from outdo import recipe as recipes
    from outdo.cli import board as playing
    from outdo.runs import reopen

    overrides = dict(recipes.parse_override(text) for text in set_ or [])
    playing.game(reopen.open_checkpoint(target, recipe, task, overrides), fen, temperature, seed, _console(), input)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs of one recipe, one per seed.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables and verdicts there, too.")] = None,
) -> None:
    """Put runs that differ only in their seed together: players, bill and verdicts with intervals over seeds and items.

    [bold]Example[/]

    outdo compare runs/endgames-seed0 runs/endgames-seed1 runs/endgames-seed2 --markdown table.md
    """
    from rich.markdown import Markdown

    from outdo.compare import table
    from outdo.system import files

    text = table.markdown(table.gather(runs))
    if markdown is not None:
        files.write_text(markdown, text)
    _console().print(Markdown(text))


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


def app_main() -> None:
    """The `outdo` program: 0 done, 2 the user can mend it (one line), 130 interrupted, 1 a bug (traceback)."""
    try:
        code = app(standalone_mode=False) or 0
        sys.exit(_say("interrupted", code) if code == 130 else code)
    except (lock.Interrupted, typer.Abort) as e:
        sys.exit(_say(str(e) or "interrupted", 130))
    except (UserError, OSError) as e:
        if os.environ.get("OUTDO_DEBUG"):
            raise
        sys.exit(_say(f"error: {e}", 2))
    except Exception as e:
        if out_of_memory(e):
            sys.exit(_say("error: out of memory; lower slots (sequences that generate together), the stage's "
                          "optimizer.micro_tokens or prompts, or take a smaller model, then --resume the run if it had begun", 2))
        if not hasattr(e, "format_message"):  # typer's own complaints about arguments
            raise
        sys.exit(_say(f"error: {e.format_message()}; outdo --help shows what there is", 2))


def _say(line: str, code: int) -> int:
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(line.split()))
    print("outdo: " + "".join(shown), file=sys.stderr)  # escaped: it may quote a data set or a template
    return code
