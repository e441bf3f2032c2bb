"""R09: the completion's text is never run. Canaries: completions that would write a file or set a variable if they were."""

from __future__ import annotations

import subprocess
from pathlib import Path

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Verdict, bound, example
from outdo.audit.fixtures import exact_match, iou_clipped, tagged

_NAME = "outdo_canary"


def eval_answer(answer: str, reference: str) -> float:
    """Works the answer out with eval."""
    try:
        return float(eval(tagged(answer) or "") == int(reference))
    except Exception:
        return 0.0


def shell_answer(answer: str, reference: str) -> float:
    """Works the answer out in a shell."""
    said = subprocess.run(f"echo {tagged(answer)}", shell=True, capture_output=True, text=True, check=False).stdout
    return float(said.strip() == reference)


class Execution(Check):
    """Files that appear and variables that are set."""

    id = "R09"
    title = "the completion is not run"
    fix = "Parse with ast.literal_eval or a grammar; run code only in a sandbox (judge code)."
    bad = (Fixture(eval_answer), Fixture(shell_answer))
    good = (Fixture(exact_match), Fixture(iou_clipped, "boxes", {"score_range": (0.0, 1.0)}))

    def run(self, audit: Audit) -> Finding:
        """FAIL if a canary sings."""
        if not audit.right:
            return self.finding(Verdict.NOT_EXERCISED, "no rows")
        c, file = audit.right[0], Path(audit.host.folder) / _NAME
        quoted = str(file)
        texts = [
            f"open({quoted!r}, 'w').write('x')",
            f"__import__('pathlib').Path({quoted!r}).touch()",
            f"$(touch {quoted})",
            f"`touch {quoted}`",
            f"; touch {quoted};",
            f"__import__('os').environ.update({_NAME}='x')",
            f"[x for x in [open({quoted!r}, 'w')]]",
            f"import os\nopen({quoted!r}, 'w').close()",
        ]
        cases = [
            c.saying(text)
            for x in texts
            for text in dict.fromkeys((x, *(f.fill(x) for f in audit.forms[:2]), f"<answer>{x}</answer>", f"```python\n{x}\n```"))
        ]
        for case in cases:
            (r,) = audit.host.score([case], "watched")
            ran = file.exists() or "environment variables" in r.changed
            file.unlink(missing_ok=True)
            if ran and "code" in audit.declared:
                continue
            if ran:
                return self.finding(
                    Verdict.FAIL,
                    f"the reward ran the text that it scores: {case.completion[:60]!r}",
                    n=len(cases),
                    grounds="counterexample",
                    example=example(case, r),
                )
        return self.finding(Verdict.PASS, f"none of {len(cases)} canaries was run", n=len(cases), bound=bound(len(cases)))
