"""Completions that hold a program: finding it, replacing it, breaking it. For the checks of rewards that run code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from outdo.audit.base import Case, Check, Finding, Knows, Verdict, bound, example

if TYPE_CHECKING:
    from outdo.audit.audit import Audit

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Program:
    """A right answer with a program in it."""

    case: Case
    before: str
    code: str
    after: str

    def saying(self, code: str, right: bool | None = False) -> Case:
        """The completion with another program."""
        return self.case.saying(f"{self.before}{code}{self.after}", right)

    @property
    def functions(self) -> list[ast.FunctionDef]:
        """Functions at the top of the program."""
        return [n for n in ast.parse(self.code).body if isinstance(n, ast.FunctionDef)]


def programs(audit: Audit) -> list[Program]:
    """Right answers that are accepted and hold a program with a function, at most eight."""
    out = []
    for c in audit.right:
        found = _FENCE.search(c.completion)
        a, b = found.span(1) if found else (0, len(c.completion))
        try:
            tree = ast.parse(c.completion[a:b])
        except (SyntaxError, ValueError, RecursionError):
            continue
        if any(isinstance(n, ast.FunctionDef) for n in tree.body):
            out.append(Program(c, c.completion[:a], c.completion[a:b], c.completion[b:]))
    taken = audit.accepts([p.case for p in out])
    return [p for p, ok in zip(out, taken, strict=True) if ok][:8]


class ProgramAttack(Check):
    """Programs that must not be paid: FAIL if one is accepted twice."""

    needs_accepted = True
    knows: ClassVar[Knows] = Knows.PROMPT

    def variants(self, p: Program) -> Iterator[str]:
        """Programs to put in the place of the right one."""
        raise NotImplementedError

    def run(self, audit: Audit) -> Finding:
        """See the class."""
        some = programs(audit)
        if not some:
            return self.finding(Verdict.NOT_EXERCISED, "no right answer holds a Python function")
        cases = [p.saying(code) for p in some for code in self.variants(p)]
        restarts = audit.host.restarts
        taken = audit.accepts(cases)
        for case, ok in zip(cases, taken, strict=True):
            if (
                ok
                and audit.accepts([case])[0]
                and all(r.value is not None and r.value >= audit.accept for r in audit.host.score([case]))
            ):
                (r,) = audit.score([case])
                return self.finding(
                    Verdict.FAIL,
                    f"accepted {sum(taken)} of {len(cases)} such programs",
                    n=len(cases),
                    effect=sum(taken) / len(cases),
                    knows=str(self.knows),
                    grounds="counterexample",
                    example=example(case, r),
                )
        if audit.host.restarts > restarts:
            lost = ("ended its process", "out of time", "broke the channel")
            case, r = next((c, r) for c, r in zip(cases, audit.score(cases), strict=True) if r.error.startswith(lost))
            return self.finding(
                Verdict.FAIL,
                f"a program ends or stops the grader itself ({r.error})",
                n=len(cases),
                grounds="counterexample",
                knows=str(Knows.NOTHING),
                example=example(case, r),
            )
        return self.finding(Verdict.PASS, f"none of {len(cases)} accepted", n=len(cases), bound=bound(len(cases)))


def stub(f: ast.FunctionDef, body: str) -> str:
    """The function with another body."""
    return f"def {f.name}({ast.unparse(f.args)}):\n    {body}"
