"""A finding again: replayed, its reach over a data set, as a script without outdo, and whether a fix closed it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from outdo.audit import cases as reading
from outdo.audit import scorer
from outdo.audit.audit import Audit, audit_reward
from outdo.audit.base import Case, Finding, Result, Verdict
from outdo.audit.card import Card
from outdo.audit.host import Host
from outdo.errors import UserError, check
from outdo.evaluation.stats import wilson
from outdo.system import files

_FIELDS = ("prompt", "completion", "row", "chat", "reference", "column")


def _case(f: Finding) -> Case:
    if f.example is None:
        raise UserError(f"finding {f.id} ({f.verdict}) has no counterexample")
    return Case(**{k: f.example[k] for k in _FIELDS}, right=False)


def _host(card: Card, reward: str | None = None) -> Host:
    named = reward or card.of
    check(bool(named), "the card is of a function from Python, which has no name to load it by; audit it as file.py:fn")
    return Host(lambda: scorer.load(named), float(card.options.get("timeout_s", 5.0)))


def replay(card: Card, id_: str, reward: str | None = None) -> tuple[Finding, Result, bool]:
    """The finding, what its counterexample scores now, and whether that is accepted. Raises UserError."""
    found = card.find(id_)
    case = _case(found)
    with _host(card, reward) as host:
        (result,) = host.score([case])
    least = (found.example or {}).get("accept")
    return found, result, result.value is not None and least is not None and result.value >= least


@dataclass(frozen=True)
class Reach:
    """On how many rows a hole works."""

    hits: int
    rows: int
    interval: tuple[float, float]


def reach(card: Card, id_: str, data: Any = None) -> Reach:
    """The counterexample's form on every row of the data: what stood there of the prompt and of the answer is replaced by the
    row's own.

    data: rows or a file; the card's by default. Raises UserError.
    """
    found = card.find(id_)
    one = _case(found)
    given = [c for c in reading.load(data or card.data, card.options.get("columns")) if c.right is not False]
    cases = [c.saying(_adapted(one, c)) for c in given]
    with _host(card) as host:
        results = host.score(cases)
    least = card.accept if card.accept is not None else float("inf")
    hits = sum(r.value is not None and r.value >= least for r in results)
    return Reach(hits, len(cases), wilson(hits, len(cases)))


def _adapted(one: Case, c: Case) -> str:
    text = one.completion
    for old, new in ((_text(one.prompt), _text(c.prompt)), (one.reference, c.reference)):
        if old and new and len(old) > 1:
            text = text.replace(old, new)
    return text


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(m.get("content") or "") for m in prompt)


def repro(card: Card, id_: str, out: Path) -> list[float]:
    """Write a script that shows the finding without outdo, and run it twice. Returns what it printed. Raises UserError."""
    found = card.find(id_)
    case = _case(found)
    file, _, name = card.of.rpartition(":")
    check(
        file.endswith(".py") and card.style not in ("outdo judge", "verifiers rubric", "reasoning-gym"),
        f"a script without outdo needs a function in a file; the card is of {card.of or card.reward!r} ({card.style})",
    )
    said: Any = [{"role": "assistant", "content": case.completion}] if case.chat else case.completion
    script = _SCRIPT.format(
        id=found.id,
        title=found.title,
        said=found.said.replace('"""', "'''"),
        file=str(Path(file).resolve()),
        name=name,
        style=card.style,
        prompt=_literal(case.prompt),
        completion=_literal(said),
        row=_literal(dict(case.row)),
        told=_literal(case.told),
    )
    files.write_text(out, script)
    printed = []
    for _ in range(2):
        done = subprocess.run([sys.executable, str(out)], capture_output=True, text=True, timeout=120, check=False)
        check(done.returncode == 0, f"{out} ends with {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        printed.append(float(done.stdout.strip().splitlines()[-1]))
    return printed


def _literal(value: Any) -> str:
    return f"json.loads({json.dumps(json.dumps(value, default=str))})"


_SCRIPT = '''"""Finding {id} ({title}) of outdo audit, without outdo: {said}

The last line that this prints is the score.
"""

import importlib.util
import inspect
import json

spec = importlib.util.spec_from_file_location("reward", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
reward = getattr(module, {name!r})

prompt = {prompt}
completion = {completion}
row = {row}
told = {told}
text = completion if isinstance(completion, str) else completion[-1]["content"]

style = {style!r}
if style.startswith("TRL"):
    given = {{"prompts": [prompt], "completions": [completion], "completion_ids": [list(text.encode())]}}
    given |= {{k: [v] for k, v in row.items()}}
elif style == "verl":
    given = {{"data_source": row.get("data_source", ""), "solution_str": text, "ground_truth": told}}
    given["extra_info"] = row.get("extra_info")
elif style.startswith("OpenRLHF"):
    asked = prompt if isinstance(prompt, str) else "\\n".join(m["content"] for m in prompt)
    given = {{"queries": [asked + text], "prompts": [asked], "labels": [told]}}
elif style == "verifiers":
    given = {{**row, "prompt": prompt, "completion": completion, "answer": told, "info": row.get("info", {{}}), "state": {{}}}}
else:
    given = None
if given is None:
    score = reward(text, told)
else:
    parameters = inspect.signature(reward).parameters
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    score = reward(**{{k: v for k, v in given.items() if anything or k in parameters}})
score = score.get("score", score.get("rewards")) if isinstance(score, dict) else score
print(float(score[0] if isinstance(score, (list, tuple)) else score))
'''


@dataclass(frozen=True)
class Fix:
    """Whether a changed reward closes a finding."""

    closed: bool
    lines: tuple[str, ...]
    card: Card


def verify_fix(card: Card, id_: str, reward: str, data: Any = None, seed: int = 1) -> Fix:
    """The old counterexamples, the check itself, everything that passed before, and an attack search with a fresh seed.

    "The old counterexample is refused" alone is no fix. Raises UserError.
    """
    found = card.find(id_)
    check(found.verdict in (Verdict.FAIL, Verdict.WARN), f"finding {found.id} is {found.verdict}: there is nothing to mend")
    options = {k: v for k, v in card.options.items() if k != "seed"}
    new = replace(audit_reward(reward, data or card.data, seed=seed, **options), data=card.data)
    lines, closed = [], True
    old = [f for f in card.findings if f.verdict == Verdict.FAIL and f.example is not None] + ([found] if found.example else [])
    for f in {f.id: f for f in old}.values():
        with _host(card, reward) as host:
            (r,) = host.score([_case(f)])
        least = new.accept if new.accept is not None else float("inf")
        taken = r.value is not None and r.value >= least
        lines.append(
            f"counterexample of {f.id}: {'still accepted' if taken else 'refused'} ({r.error if r.value is None else r.value})"
        )
        closed &= not (taken and f.id == found.id)
    for f in new.findings:
        was = next((o.verdict for o in card.findings if o.id == f.id), None)
        if f.verdict == Verdict.FAIL and (f.id == found.id or was != Verdict.FAIL or f.id == "A17"):
            lines.append(f"{f.id} {f.title}: {'still' if was == Verdict.FAIL else 'new'} FAIL: {f.said}")
            closed = False
    if new.exercised:
        lines.append(f"the changed reward refuses right answers: {new.exercised}")
        closed = False
    return Fix(closed, tuple(lines), new)


def look(reward: Any, rows: Sequence[dict[str, Any]], checks: Sequence[str], **options: Any) -> list[Finding]:
    """The findings of a few checks on rows, without a card: for the look before RL starts."""
    from outdo.audit.audit import make_checks

    with Host(lambda: reward, float(options.pop("timeout_s", 10.0)), offline=False) as host:
        audit = Audit(host, reading.load(list(rows)), budget=200, **options)
        return [audit.look(c) for c in make_checks(checks)]
