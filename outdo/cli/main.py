"""The command line: one file a command. Commands are thin: they read arguments and call the functions that do the work.

Whatever needs torch is imported inside the commands, so that help and mistakes in a recipe answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from outdo import __version__
from outdo.cli import (
    advise,
    audit_judges,
    clean,
    common,
    compare,
    cost,
    evaluate,
    forecast,
    init,
    inspect,
    match,
    models,
    play,
    recipes,
    report,
    run,
)
from outdo.errors import UserError, out_of_memory
from outdo.runs import lock
from outdo.system import user_code

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
                  context_settings={"help_option_names": ["-h", "--help"]})

TRAIN, MEASURE, JUDGE, LOOK = "Train", "Measure", "Judge", "Look"
app.command(rich_help_panel=TRAIN)(run.run)
app.command(rich_help_panel=TRAIN)(init.init)
app.command(rich_help_panel=TRAIN)(recipes.recipes)
app.add_typer(models.app, name="models", rich_help_panel=TRAIN)
app.command("eval", rich_help_panel=MEASURE)(evaluate.evaluate)
app.command(rich_help_panel=MEASURE)(compare.compare)
app.command(rich_help_panel=MEASURE)(match.match)
app.command(rich_help_panel=MEASURE)(cost.cost)
app.command(rich_help_panel=MEASURE)(advise.advise)
app.command(rich_help_panel=MEASURE)(forecast.forecast)
app.command(rich_help_panel=MEASURE)(forecast.forecasts)
app.add_typer(audit_judges.app, name="audit", rich_help_panel=JUDGE)
app.command(rich_help_panel=LOOK)(inspect.inspect)
app.command(rich_help_panel=LOOK)(report.report)
app.command(rich_help_panel=LOOK)(play.play)
app.command(rich_help_panel=LOOK)(clean.clean)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Turn any judge into a doer: pre-training, imitation (SFT) and reinforcement (RL) in one recipe, measured on your own task.

    [bold]Start here[/]

    outdo run chess_endgame --dry-run   [dim]what it would do and cost[/]

    outdo run chess_endgame   [dim]run it; Ctrl-C at any time, then --resume[/]

    outdo play runs/chess_endgame-1:rl   [dim]play against what it learned[/]
    """
    if version:
        print(f"outdo {__version__}")
        raise typer.Exit


def app_main() -> None:
    """The `outdo` program. Exit codes: 0 done, 2 an error the user can fix (one line), 130 interrupted, 1 a bug (traceback)."""
    code = 1
    try:
        code = _app()
    finally:
        user_code.end_in_time(code)
    sys.exit(code)


def _app() -> int:
    try:
        code = app(standalone_mode=False) or 0
        return common.say("interrupted", code) if code == 130 else int(code)
    except (lock.Interrupted, typer.Abort) as e:
        return common.say(str(e) or "interrupted", 130)
    except (UserError, OSError) as e:
        if os.environ.get("OUTDO_DEBUG"):
            raise
        return common.say(f"error: {e}", 2)
    except SystemExit as e:  # the command was not done, whatever the code says
        if os.environ.get("OUTDO_DEBUG"):
            raise RuntimeError("exit() before the command was done") from e
        return common.say(f"error: something that the command uses called exit({e.code!r}) before the command was done; "
                          "OUTDO_DEBUG=1 shows where", 2)
    except Exception as e:
        if out_of_memory(e):
            return common.say("error: out of memory; lower slots (sequences that generate together), the stage's optimizer."
                              "micro_tokens or prompts, or use a smaller model; then --resume the run if it had begun", 2)
        if not hasattr(e, "format_message"):  # typer's own complaints about arguments
            raise
        said = e.format_message()
        return common.say(f"error: {said}; outdo --help lists the commands", 2) if said else 2  # no command: the help was shown
