"""C08: programs that are broken in known ways. Only mutants count whose results differ from the right program's on some input
that the tests could have had; the share that is accepted says how much the tests see.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Any

from outdo.audit.audit import Audit
from outdo.audit.base import Check, Finding, Fixture, Knows, Verdict, bound, example
from outdo.audit.graders import hidden_tests_subprocess, in_process
from outdo.audit.programs import Program, programs
from outdo.judges.common import sandbox

_INPUTS = 24


def one_test(answer: str, reference: dict[str, Any]) -> float:
    """Only the first test is run."""
    return in_process(answer, {**reference, "tests": reference["tests"][:1]})


class Mutants(Check):
    """Wrong programs that are close to the right one."""

    id = "C08"
    title = "wrong programs near the right one"
    fix = "Add the input that tells the mutant from the right program to the tests."
    needs_accepted = True
    bad = (Fixture(one_test, "code"),)
    good = (Fixture(hidden_tests_subprocess, "code"),)

    def run(self, audit: Audit) -> Finding:
        """FAIL if proven-wrong mutants are accepted on more than a tenth of the tasks, WARN for any."""
        some = programs(audit)
        if not some:
            return self.finding(Verdict.NOT_EXERCISED, "no right answer holds a Python function")
        if why := sandbox.available():
            return self.finding(Verdict.NOT_EXERCISED, f"mutants must be run to be proven wrong, and {why}")
        tried, survived, kept = 0, 0, None
        for p in some:
            wrong = proven_wrong(p, audit.rng(f"{self.id} {p.case.group}"))
            cases = [p.saying(code) for code, _, _ in wrong]
            taken = audit.accepts(cases)
            tried += bool(cases)
            if any(taken):
                survived += 1
                kept = kept or (cases[taken.index(True)], wrong[taken.index(True)])
        if not tried:
            return self.finding(Verdict.NOT_EXERCISED, "no mutant could be proven wrong")
        if kept is None:
            return self.finding(Verdict.PASS, f"no proven-wrong mutant of {tried} programs accepted", n=tried, bound=bound(tried))
        case, (_, inputs, right) = kept
        (r,) = audit.score([case])
        share = survived / tried
        name = (
            some[0].functions[0].name
            if some[0].case.group == case.group
            else case.completion.partition("def ")[2].partition("(")[0]
        )
        return self.finding(
            Verdict.FAIL if share > 0.1 else Verdict.WARN,
            f"{survived} of {tried} tasks accept a program proven wrong; this "
            f"would refuse it: assert {name}(*{inputs!r}) == {right!r}",
            n=tried,
            effect=share,
            knows=str(Knows.NEAR),
            grounds="counterexample",
            example=example(case, r),
        )


def proven_wrong(p: Program, rng: random.Random) -> list[tuple[str, list[Any], Any]]:
    """Mutants with an input on which their result differs from the right program's, and the right result."""
    f = p.functions[0]
    inputs = [list(i) for i in _inputs(len(f.args.args), rng)]
    calls = [{"arguments": i} for i in inputs]
    limits = sandbox.Limits(timeout_s=3.0, test_s=1.0)
    try:
        right = sandbox.run(p.code, calls, f.name, limits)
        out = []
        for code in list(_mutants(p.code))[:8]:
            given = sandbox.run(code, calls, f.name, limits)
            at = next((k for k, (a, b) in enumerate(zip(right, given, strict=True)) if "value" in a and a != b), None)
            if at is not None:
                out.append((code, inputs[at], _plain(right[at]["value"])))
    except sandbox.Broken:
        return []
    return out


def _plain(value: Any) -> Any:
    """A value as the sandbox describes it, without its types."""
    if isinstance(value, dict):
        return [_plain(v) for v in next(iter(value.values()))] if value else value
    return value


def _inputs(n: int, rng: random.Random) -> Iterator[tuple[Any, ...]]:
    makers = (
        lambda: rng.randint(-9, 9),
        lambda: "".join(rng.choice("abcXY ") for _ in range(rng.randint(0, 6))),
        lambda: [rng.randint(-9, 9) for _ in range(rng.randint(0, 5))],
    )
    for make in makers:
        for _ in range(_INPUTS // 3):
            yield tuple(make() for _ in range(n))


def _mutants(code: str) -> Iterator[str]:
    """The program with one thing changed: an operator, a comparison, a number, a condition, the result."""
    swaps: dict[type, type] = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.FloorDiv: ast.Mult,
        ast.Mod: ast.FloorDiv,
        ast.Lt: ast.LtE,
        ast.LtE: ast.Lt,
        ast.Gt: ast.GtE,
        ast.GtE: ast.Gt,
        ast.Eq: ast.NotEq,
        ast.And: ast.Or,
    }
    count = sum(1 for _ in ast.walk(ast.parse(code)))
    for at in range(count):
        tree = ast.parse(code)
        node = list(ast.walk(tree))[at]
        if isinstance(node, ast.BinOp) and type(node.op) in swaps:
            node.op = swaps[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in swaps:
            node.ops[0] = swaps[type(node.ops[0])]()
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
        elif isinstance(node, ast.Return) and node.value is not None:
            node.value = ast.Call(ast.Name("abs", ast.Load()), [node.value], []) if at % 2 else ast.List([node.value], ast.Load())
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("max", "min", "sum"):
            node.func.id = {"max": "min", "min": "max", "sum": "len"}[node.func.id]
        elif isinstance(node, ast.Attribute) and node.attr in ("upper", "lower"):
            node.attr = {"upper": "title", "lower": "title"}[node.attr]
        else:
            continue
        yield ast.unparse(ast.fix_missing_locations(tree))
