"""The judge of code: honest programs and functions, and code that attacks its grader. Every attack is really run.

Run: .venv/bin/python -m pytest tests/judges/test_code.py   (about 20 s on one core)
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outdo import plugins
from outdo.errors import UserError
from outdo.judges import code
from outdo.judges.base import Judge
from outdo.judges.common import sandbox
from outdo.plugins import Plugin
from outdo.types import Finish, Score, Trajectory

WHY = sandbox.available()
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"code cannot be isolated here: {WHY}")
DOUBLE = {"inputs": [[1], [2]], "outputs": [2, 4], "fn_name": "f"}
PRINT = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4"]}


def make(**options: object) -> Judge:
    return plugins.make("judges", Plugin(name="code", **options), Judge)  # type: ignore[type-abstract, arg-type]


def one(text: str, tests: Any, judge: Judge | None = None, **columns: Any) -> Score:
    ids = np.arange(4)
    t = Trajectory("p", 0, ids, ids > 1, np.zeros(4, np.float32), 0, Finish.STOP, {"completion": text, "tests": tests, **columns})
    (score,) = (judge or make()).score([t])
    return score


@pytest.mark.parametrize(("text", "tests", "want"), [
    ("Here:\n```python\ndef f(x):\n    return 2 * x\n```\nDone.", DOUBLE, 1.0), ("def f(x): return 2", DOUBLE, 0.0),
    ("```python\nx\n```\n```py\ndef f(x): return x + x\n```", DOUBLE, 1.0), ("print(2 * int(input()))", PRINT, 1.0),
    ("print(2 * int(input()), 'and more')", PRINT, 0.0), ("import sys\nprint(2 * int(input()))\nsys.exit(0)", PRINT, 1.0),
    ("print(2 * int(input()))\nraise SystemExit(1)", PRINT, 0.0), ("", DOUBLE, 0.0), ("def f(x): retrun 2", DOUBLE, 0.0),
    ("def f(x): return 2 * x", ["assert f(1) == 2", "assert f(2) > 3.5", "assert not f(0)", "assert f('a') is not None"], 1.0),
    ("def f(x): return (x, [x])", ["assert f(1) == (1, [1])"], 1.0),
    ("def f(x): return [x, [x]]", ["assert f(1) == (1, [1])"], 0.0),
    ("def f(x): return (x, x)", {"inputs": [[1]], "outputs": [[1, 1]], "fn_name": "f"}, 1.0),
    ("def f(x): return 0.1 + 0.2", ["assert f(1) == 0.3"], 1.0), ("def f(x): return True", ["assert f(1) == 1"], 0.0),
    ("def f(x): return {1: {2, 3}}", ["assert f(1) == {1: {3, 2}}"], 1.0),
    ("def f(x): return 10 ** 30", ["assert f(1) == 10 ** 30"], None),
    ("def f(x): return x", [{"input": "1\n", "output": "1"}], 0.0),
    ("def f(x): return 2 * x", json.dumps(DOUBLE), 1.0), ("x = 1", [], None), ("x = 1", ["f(1) == 2"], None),
    ("x = 1", ["assert f(1) == g(2)"], None), ("x = 1", {"inputs": [1]}, None),
    ("x = 1", "no tests here", None), ("x = 1", {"inputs": 1, "outputs": 2}, None), ("x = 1", "[1, 2", None),
])  # fmt: skip
def test_honest_code(text: str, tests: Any, want: float | None) -> None:
    score = one(text, tests)
    assert score.value == want, score.reason
    assert score.answered == (text != "" or want is None)


def test_a_check_function_as_humaneval_has_it() -> None:
    tests = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
    judge = make(entry_point="entry")
    assert one("def total(x): return sum(x)", tests, judge, entry="total").value == 1.0
    assert one("def total(x): return 3", tests, judge, entry="total").value == 0.0
    loops = "def check(candidate):\n    for i in range(3):\n        assert candidate([i]) == i\n"
    assert one("def total(x): return sum(x)", loops, judge, entry="total").value is None


def test_shares() -> None:
    assert one("def f(x): return 2", DOUBLE, make(score="share")).value == 0.5


ALWAYS = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
class Two(int):
    def __eq__(self, other): return True
"""
# ruff: noqa: E501 (the code of an attack reads best in one piece)
ATTACKS = {
    "an endless loop": "while True: pass",
    "an endless loop in the function": "def f(x):\n    while True: pass",
    "endless arithmetic": "def f(x): return 9 ** 9 ** 9 ** 9",
    "a fork bomb": "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "a fork bomb of threads": "import threading\ndef g():\n    while True: threading.Thread(target=g).start()\ndef f(x): g()",
    "output without end": "def f(x):\n    while True: print('x' * 10**6)",
    "an answer of a gigabyte": "def f(x): return 'x' * 10**9",
    "all memory": "def f(x):\n    a = []\n    while True: a.append(bytearray(10**8))",
    "a huge file": "def f(x):\n    with open('/tmp/big', 'wb') as g:\n        while True: g.write(b'x' * 10**7)",
    "all files open": "def f(x):\n    return [open('/dev/null') for _ in range(10**5)]",
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "a crash": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "an object that equals everything": ALWAYS + "def f(x): return Yes()",
    "a number that equals everything": ALWAYS + "def f(x): return Two(7)",
    "a list that equals everything": "class L(list):\n    def __eq__(self, o): return True\ndef f(x): return L()",
    "patched builtins": "import builtins, json\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = lambda *a: int\n"
                        "builtins.eval = lambda *a: 2\njson.dumps = lambda *a, **k: '{\"value\": 2}'\ndef f(x): return 7",
    "deep recursion": "def f(x): return f(x)",
    "a deep answer": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "a list that holds itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "its own source deleted": "import os, glob\ndef f(x):\n    for p in glob.glob('/**', recursive=True):\n        try: os.remove(p)\n"
                              "        except OSError: pass\n    return 7",
    "writing to every open file": "import os\ndef f(x):\n    for fd in range(3, 60):\n        try: os.write(fd, b'{\"value\": 7}\\n' * 9)\n"
                                  "        except OSError: pass\n    return 7",
    "reading frames for the answer": "import sys, gc\ndef f(x):\n    seen, frame = [], sys._getframe()\n    while frame:\n"
                                     "        seen += [frame.f_locals, frame.f_globals]\n        frame = frame.f_back\n"
                                     "    for o in gc.get_objects():\n        if isinstance(o, dict) and 'outputs' in o: return o['outputs'][0]\n"
                                     "    return 7",
    "killing the parent": "import os, signal\ndef f(x):\n    for p in (os.getppid(), 1, -1):\n        try: os.kill(p, signal.SIGKILL)\n"
                          "        except OSError: pass\n    return 7",
    "a process that stays": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n"
                            "        os._exit(0)\n    return 7",
    "changed limits": "import resource\ndef f(x):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return 7",
    "a signal handler for the limit": "import signal\nfor s in range(1, 60):\n    try: signal.signal(s, signal.SIG_IGN)\n"
                                      "    except (OSError, ValueError): pass\nwhile True: pass",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_fail_in_time_and_leave_the_grader_alive(attack: str) -> None:
    judge, begun = make(timeout_s=2.0, memory_mb=256), time.monotonic()
    score = one(ATTACKS[attack], DOUBLE, judge)
    assert score.value == 0.0, score.reason
    assert time.monotonic() - begun < 12, score.reason
    assert one("def f(x): return 2 * x", DOUBLE, judge).value == 1.0


@pytest.mark.slow
def test_programs_attack_in_vain() -> None:
    judge = make(timeout_s=6.0, test_s=1.0, memory_mb=256, output_kb=64)
    for text in ("while True: pass", "while True: print('x' * 10**6)", "import os\nos._exit(0)", "import os\nos.kill(os.getppid(), 9)",
                 "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'{\"printed\": \"2\"}\\n')\n    except OSError: pass"):
        assert one(text, PRINT, judge).value == 0.0, text
    assert one("print(2 * int(input()))", PRINT, judge).value == 1.0


@pytest.mark.slow
def test_there_is_no_network_and_nobody_elses_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("2", encoding="utf-8")
    secret.chmod(0o644)
    look = (f"import os, socket\ndef f(x):\n    try: return int(open({str(secret)!r}).read())\n    except OSError: pass\n"
            "    s = socket.socket()\n    s.settimeout(1)\n    try: s.connect(('127.0.0.1', 22)); return 2\n"
            "    except OSError as e: return [type(e).__name__, os.path.exists('/etc/passwd'), os.path.exists('/proc/1')]\n")
    (answer,) = sandbox.run(look, [{"arguments": [1]}], "f", sandbox.Limits())
    assert answer == {"value": {"list": ["OSError", False, False]}}


@pytest.mark.slow
def test_nothing_stays_behind() -> None:
    before, folders = {p for p in os.listdir("/proc") if p.isdigit()}, _folders()
    one(ATTACKS["a process that stays"], DOUBLE)
    one(ATTACKS["a fork bomb"], DOUBLE, make(timeout_s=1.0))
    time.sleep(0.5)
    left = [Path(f"/proc/{p}/cmdline").read_bytes() for p in os.listdir("/proc") if p.isdigit() and p not in before
            and Path(f"/proc/{p}/cmdline").exists()]
    assert not [c for c in left if b"sandbox_child" in c]
    assert _folders() <= folders


def _folders() -> set[str]:
    return {d for d in os.listdir(tempfile.gettempdir()) if d.startswith("outdo-sandbox-")}


def test_many_at_a_time_keep_their_order() -> None:
    ids = np.arange(4)
    some = [Trajectory("p", i, ids, ids > 1, np.zeros(4, np.float32), 0, Finish.STOP,
                       {"completion": f"def f(x): return {2 if i % 3 else 3} * x", "tests": DOUBLE}) for i in range(9)]
    assert [s.value for s in make(workers=3).score(some)] == [float(i % 3 != 0) for i in range(9)]


def test_where_code_cannot_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda: "no unshare")
    with pytest.raises(UserError, match="cannot isolate code here: no unshare"):
        make().score([])
    assert make(isolation="none").score([]) == []
    assert "NOT isolated" in make(isolation="none").describe()


def test_equal_values() -> None:
    pairs = [(1, 1.0, True), (1, True, False), ([1], (1,), False), ({"a": 1}, {"a": 1}, True), ("1", 1, False), (None, None, True),
             (float("nan"), float("nan"), False), ({1, 2}, {2, 1}, True)]
    for a, b, want in pairs:
        assert code.same(code.plain(a), code.plain(b)) == want, (a, b)
