"""code: run the program or the function in a completion against a row's tests, in a sandbox (`common/sandbox.py`).

Tests, as data sets have them, in one column:

    {"inputs": [...], "outputs": [...]}                    a program: text on stdin, text on stdout (APPS, DeepCoder)
    {"inputs": [...], "outputs": [...], "fn_name": "f"}    a function: lists of arguments, results
    [{"input": ..., "output": ...}, ...]                   either
    ["assert f(1) == 2", ...]                              expressions and what they must be (MBPP)

The code is the last ```python block of the completion, or all of it. What an assertion compares is taken apart: the expression is
evaluated in the sandbox, the right answer stays here. Assertions that cannot be taken apart leave the sample without a score.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

from pydantic import Field

from outdo.errors import check
from outdo.judges.base import Judge, Options, unjudgeable
from outdo.judges.common import sandbox
from outdo.judges.common.answers import words
from outdo.judges.common.sandbox_child import plain
from outdo.types import Score, Trajectory

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_COMPARES: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Test:
    """What goes into the sandbox, and what must come out of it."""

    asked: dict[str, Any]
    right: Callable[[dict[str, Any]], bool]


class Code(Judge):
    """The share of tests passed, or 1 for all of them."""

    name = "code"

    class Config(Options):
        """Options of code."""

        column: str = "tests"
        entry_point: str | None = None  # column with the function's name, where the tests do not say it
        score: Literal["all", "share"] = "all"
        timeout_s: float = Field(default=10.0, gt=0)  # one completion with all tests
        test_s: float = Field(default=4.0, gt=0)  # one test of a program
        memory_mb: int = Field(default=1024, ge=64)
        output_kb: int = Field(default=1024, ge=1)
        processes: int = Field(default=16, ge=1)
        workers: int | None = Field(default=None, ge=1)  # completions at a time; None: one a core
        packages: bool = False  # whether code may import what is installed beside outdo (numpy, ...)
        isolation: Literal["namespaces", "none"] = "namespaces"  # "none": only for code that you trust with this machine

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        self._limits = sandbox.Limits(c.timeout_s, c.test_s, c.memory_mb << 20, output_bytes=c.output_kb << 10,
                                      processes=c.processes)
        self._slots: SimpleQueue[int] = SimpleQueue()
        self._workers = c.workers or os.cpu_count() or 1
        for i in range(self._workers):
            self._slots.put(i)

    def describe(self) -> str:
        """How code is kept apart."""
        apart = ("without network or files" if self.config.isolation == "namespaces" else
                 "NOT isolated: it can use the network and read files")
        return f"reward = tests passed by the code, run {apart}"

    def lacks(self, t: Trajectory) -> list[str]:
        """See `Judge.lacks`."""
        return [self.config.column] if self.config.column not in t.info else []

    def score(self, trajectories: Sequence[Trajectory]) -> list[Score]:
        """See `Judge.score`. Raises UserError where code cannot be isolated."""
        if self.config.isolation == "namespaces":
            why = sandbox.available()
            check(not why, f"judge code cannot isolate code here: {why}; run as root or allow user namespaces, or set "
                  "isolation = 'none' if you trust all that the model may write")
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._one, trajectories))

    def _one(self, t: Trajectory) -> Score:
        c = self.config
        if (no := unjudgeable(t, "completion", c.column)) is not None:
            return no
        try:
            tests, function = read_tests(t.info[c.column], t.info.get(c.entry_point) if c.entry_point else None)
        except (ValueError, TypeError, SyntaxError, RecursionError) as e:  # the data's fault, not the candidate's
            return Score(None, f"column {c.column} holds no tests that can be read: {e}")
        blocks = _BLOCK.findall(text := words(t))
        code = blocks[-1] if blocks else text
        if not code.strip():
            return Score(0.0, "no code", answered=False)
        slot = self._slots.get()
        try:
            answers = sandbox.run(code, [test.asked for test in tests], function, self._limits, slot,
                                  c.isolation == "namespaces", c.packages)
        except sandbox.Broken as e:
            return Score(None, f"the sandbox did not start: {e}")
        finally:
            self._slots.put(slot)
        passed = [test.right(answer) for test, answer in zip(tests, answers, strict=True)]
        failed = next((a for a, ok in zip(answers, passed, strict=True) if not ok), None)
        share = sum(passed) / len(passed)
        said = "" if failed is None else f"; the first that failed: {json.dumps(failed)[:120]}"
        return Score(share if c.score == "share" else float(share == 1.0), f"{sum(passed)} of {len(passed)} tests{said}")


def read_tests(value: Any, entry_point: str | None = None) -> tuple[list[Test], str | None]:
    """A row's tests, and the function that they call. Raises ValueError for what is none of the shapes."""
    value = json.loads(value) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value
    if isinstance(value, str):
        value = _in_check(value, entry_point)
    function = entry_point
    if isinstance(value, dict) and {"inputs", "outputs"} <= value.keys():
        function = value.get("fn_name") or entry_point
        value = [{"input": a, "output": b} for a, b in zip(value["inputs"], value["outputs"], strict=True)]
    if not isinstance(value, list) or not value:
        raise ValueError("it holds no tests; give inputs and outputs, or a list of assertions")
    if all(isinstance(v, str) for v in value):
        return [_assertion(v) for v in value], None
    if not all(isinstance(v, dict) and {"input", "output"} <= v.keys() for v in value):
        raise ValueError("a test is {\"input\", \"output\"} or an assertion")
    if function is None:
        return [_program(str(v["input"]), str(v["output"])) for v in value], None
    return [_call(v["input"], v["output"]) for v in value], function


def _program(given: str, wanted: str) -> Test:
    def right(answer: dict[str, Any]) -> bool:
        return "printed" in answer and _lines(answer["printed"]) == _lines(wanted)

    return Test({"input": given}, right)


def _lines(text: Any) -> list[str]:
    """Space at the ends of lines and empty lines at the end do not count."""
    return [line.rstrip() for line in str(text).rstrip().split("\n")]


def _call(arguments: Any, wanted: Any) -> Test:
    given = arguments if isinstance(arguments, list) else [arguments]
    return Test({"arguments": given}, lambda answer: "value" in answer and same(answer["value"], plain(wanted), lists=True))


def _assertion(source: str) -> Test:
    """`assert f(1) == 2`, also in, is, not, <, ...: the left side is asked for, the right side must be a plain value."""
    try:
        (statement,) = ast.parse(source.strip()).body
    except (SyntaxError, ValueError):
        raise ValueError(f"{source[:60]!r} is no assertion") from None
    if not isinstance(statement, ast.Assert):
        raise ValueError(f"{source[:60]!r} is no assertion")
    test, wanted = statement.test, True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, wanted = test.operand, False
    if not isinstance(test, ast.Compare):
        return Test({"expression": f"bool({ast.unparse(test)})"}, lambda answer: answer.get("value", None) is wanted)
    if len(test.ops) != 1 or not wanted:
        raise ValueError(f"{source[:60]!r} cannot be taken apart; write one comparison")
    left, op, side = ast.unparse(test.left), type(test.ops[0]), test.comparators[0]
    try:
        value = plain(ast.literal_eval(side))
    except (ValueError, RecursionError):
        raise ValueError(f"{source[:60]!r} cannot be taken apart: what stands on the right is not a plain value") from None
    asked = {"expression": left}
    if op in (ast.Eq, ast.Is):
        return Test(asked, lambda answer: "value" in answer and same(answer["value"], value))
    if op in (ast.NotEq, ast.IsNot):
        return Test(asked, lambda answer: "value" in answer and not same(answer["value"], value))
    if op in _COMPARES:
        return Test(asked, lambda answer: _ordered(answer.get("value"), value, _COMPARES[op]))
    raise ValueError(f"{source[:60]!r} cannot be taken apart: in is not known here")


def _in_check(source: str, entry_point: str | None) -> list[str]:
    """HumanEval's `def check(candidate): assert candidate(1) == 2 ...` as assertions on the function itself."""
    body = ast.parse(source).body
    found = next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    statements = found.body if found is not None else body
    if not all(isinstance(s, ast.Assert) for s in statements):
        raise ValueError("its test is more than assertions and cannot be taken apart")
    return [re.sub(r"\bcandidate\b", entry_point or "candidate", ast.unparse(ast.Assert(s.test))) for s in statements
            if isinstance(s, ast.Assert)]


def same(a: Any, b: Any, lists: bool = False) -> bool:
    """Whether two values in the sandbox's form are equal; numbers to nine digits. lists: tuples are lists, as in JSON."""
    if isinstance(a, dict) and isinstance(b, dict):
        (kind, x), (other, y) = next(iter(a.items())), next(iter(b.items()))
        if lists:
            kind, other = ("list" if k == "tuple" else k for k in (kind, other))
        if kind != other or kind == "other":
            return False
        if kind == "float":
            return _number(a) == _number(b) or math.isclose(_number(a), _number(b), rel_tol=1e-9, abs_tol=1e-12)
        return len(x) == len(y) and all(same(v, w, lists) for v, w in zip(x, y, strict=True))
    if isinstance(a, list) and isinstance(b, list):  # key and value of a dict
        return len(a) == len(b) and all(same(v, w, lists) for v, w in zip(a, b, strict=True))
    if _is_number(a) and _is_number(b):  # 2 == 2.0, as in Python
        return _number(a) == _number(b)
    return type(a) is type(b) and bool(a == b)


def _ordered(value: Any, wanted: Any, compare: Callable[[Any, Any], bool]) -> bool:
    if _is_number(value) and _is_number(wanted):
        return compare(_number(value), _number(wanted))
    return isinstance(value, str) and isinstance(wanted, str) and compare(value, wanted)


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, dict) and "float" in value)


def _number(value: Any) -> float:
    return float(value["float"]) if isinstance(value, dict) else value
