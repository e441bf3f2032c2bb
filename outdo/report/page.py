"""report.html: one self-contained page about one run folder. Opens offline, asks nothing of the network."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from outdo.report import beyond, curves, data, format, games, losses, sections
from outdo.report.words import GAMES
from outdo.system import files

_HERE = Path(__file__).parent
_SCRIPTS = ("page.js", "charts.js", "board.js")


def build(folder: Path) -> Path:
    """Write report.html into a run folder, finished or not, and return its path. Raises UserError for other folders."""
    target = folder / "report.html"
    files.write_text(target, render(data.read(folder)))
    return target


def render(run: data.RunData) -> str:
    """The page as text."""
    return _templates(run.shares).get_template("page.jinja").render(context(run))


def context(run: data.RunData) -> dict[str, Any]:
    """Everything that the templates see. Strings in here come from files and are escaped by the templates."""
    charts: dict[str, Any] = {"curves": curves.learning(run)}
    rollouts = curves.training(run, ("rl", "rejection"), curves.ROLLOUT_METRICS)
    imitation = [*losses.charts(run), *curves.training(run, ("pretrain", "sft"), curves.IMITATION_METRICS)]
    charts |= {c["id"]: c for c in rollouts + imitation}
    shown = games.interesting(run) if run.words is GAMES else []
    proxies = []
    for number, stage in enumerate(s for s in run.stages.values() if curves.proxy(run, s) and s.evaluations):
        charts[f"reward-{number}"] = curves.rewards(run, stage, f"reward-{number}")
        game = games.telling(stage)
        proxies.append({**sections.gaming(run, stage), "chart": f"reward-{number}",
                        "game": len(shown) if game else None, "shown": game})
        shown += [game] if game else []
    audits = []
    for number, stage in enumerate(s for s in run.stages.values() if s.audited):
        charts[f"audit-{number}"] = curves.probes(run, stage, f"audit-{number}")
        audits.append({"name": stage.name, "colour": stage.colour, "chart": f"audit-{number}", **stage.audited})
    headline = sections.headline(run)
    return {
        "run": run,
        "verdicts": sections.verdicts(run),
        "tally": sections.tally(run),
        "headline": headline,
        "table": sections.table(run),
        "bill": sections.bill(run),
        "gap": sections.gap(run),
        "scale": sections.scale(run),
        "further": beyond.further(run),
        "forgetting": beyond.forgetting(run),
        "answers": beyond.answers(run) if run.words is not GAMES else [],
        "proxies": proxies,
        "audits": audits,
        "rollout_charts": rollouts,
        "imitation_charts": imitation,
        "games": shown,
        "stepping": len(shown) - sum(p["game"] is not None for p in proxies),
        "opening": games.opening(shown, headline[-1]["stage"] if headline else None),
        "command": command(run.environment),
        "trunk": curves.trunk(run.recipe),
        "charts": charts,
        "embedded": embed({"charts": charts, "games": shown}),
        "css": _asset("style.css") + _asset("charts.css"),
        "scripts": [_asset(name) for name in _SCRIPTS],
        "environment": environment(run.environment),
    }


def command(environment: dict[str, Any]) -> str:
    """The command line that made the run, as a shell would take it."""
    words = environment.get("command")
    return shlex.join(str(w) for w in words) if isinstance(words, list) else str(words or "unknown command")


def environment(value: dict[str, Any]) -> list[tuple[str, str]]:
    """environment.json as (name, text) lines, the command and the diff left out: they have places of their own."""
    out: list[tuple[str, str]] = []
    for key, item in value.items():
        if key == "command":
            continue
        if isinstance(item, dict):
            out += [(f"{key}.{k}", "" if v is None else str(v)) for k, v in item.items() if (key, k) != ("git", "diff")]
        else:
            out.append((str(key), "none" if item is None else str(item)))
    return out


def embed(value: Any) -> Markup:
    """JSON for a <script type="application/json">: nothing inside can end the element or start a comment."""
    text = json.dumps(format.clean(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _asset(name: str) -> Markup:
    """A file of ours, trusted, to be put into the page as it is."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


@functools.cache
def _templates(shares: bool) -> jinja2.Environment:
    """shares: scores lie between 0 and 1, and are shown in percent."""
    out = jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
                             trim_blocks=True, lstrip_blocks=True)
    out.filters |= {"percent": format.percent, "percent_range": format.percent_range, "plain": format.plain,
                    "count": format.count, "power": format.power, "seconds": format.seconds, "size": format.size,
                    "key": format.key, "score": format.percent if shares else format.plain,
                    "score_range": format.percent_range if shares else format.plain_range}
    return out
