"""Before a stage learns from scores: the cheap part of the reward audit on the recipe's own reward (docs/audit.md).

Looked at where the task's rows are text with a reference, and the judge costs nothing to ask. A hole is said, never refused:
whether it matters is the reader's decision.
"""

from __future__ import annotations

from typing import Any

from outdo.audit import again
from outdo.audit.audit import make_checks
from outdo.audit.base import Finding, Verdict
from outdo.errors import UserError
from outdo.stages.common.loop import Loop
from outdo.system import files

FILE = "audit_before.json"
_ROWS = 12
_COSTLY = ("llm", "engine", "reward_model", "examples", "code")  # judges that one does not ask hundreds of times in passing


def audit_before(loop: Loop) -> None:
    """Look, say what was found, keep it in audit_before.json. Does nothing on a stage that has begun."""
    file = loop.folder / FILE
    if loop.begun or loop.run.interrupted or file.exists():
        return
    findings, why = _found(loop)
    told = [{"id": f.id, "title": f.title, "verdict": str(f.verdict), "said": f.said, "n": f.n} for f in findings]
    files.write_json(file, {"findings": told, "not_looked_at": why})
    bad = [f for f in findings if f.verdict in (Verdict.FAIL, Verdict.WARN)]
    if why:
        loop.run.show(loop.name, 0.0, f"audit of the reward: not looked at ({why})")
        return
    unseen = [f for f in findings if f.verdict in (Verdict.NOT_EXERCISED, Verdict.UNDERPOWERED)]
    head = f"audit of the reward: {len(bad)} of {len(findings) - len(unseen)} quick checks found something"
    if unseen:
        head += f"; {len(unseen)} could not look ({unseen[0].said})"
    if bad:
        head += "; the whole audit: outdo audit reward"
    loop.run.show(loop.name, 0.0, "\n".join([head, *(f"  {f.verdict:<6}{f.id} {f.title}: {f.said}" for f in bad)]))


def _found(loop: Loop) -> tuple[list[Finding], str]:
    """Findings, or why nobody looked."""
    if not loop.task.one_reply:
        return [], "its episodes have turns; a live audit ([audit]) watches those"
    names = {loop.judge.name, *(getattr(r, "name", "") for r in getattr(loop.judge, "rewards", ()))}
    if costly := names & set(_COSTLY):
        return [], f"judge {', '.join(sorted(costly))} is costly to ask"
    rows: list[dict[str, Any]] = [dict(p.row) for p in loop.task.prompts(loop.config.split, _ROWS, loop.seed)]
    try:
        checks = [c.id for c in make_checks() if c.cheap]
        return again.look(loop.judge, rows, checks, score_range=None), ""
    except UserError as e:
        return [], str(e)
